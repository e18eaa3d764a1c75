// The administrator's console. A client of the API at /api/v1 and nothing more.
//
// In reading order: the views, orders, following events, and where the address bar leads. What all
// of them are made of is in parts.js. Text of others is only ever set as text.

import {
  api, bytes, count, duration, element, get, isOver, items, KINDS, panel, path, plain, prose,
  sentence, Silence, stateMark, table, time, version,
} from "./parts.js";

const main = document.getElementById("main");
const state = { user: null, status: null, servers: [], segments: [], sites: [], runs: [], run: null };

// --- Views

// Draws the view anew where it differs: what is the same keeps its focus, its selection and how far
// it was scrolled, and what differs gets its focus back.
function show(...content) {
  const key = document.activeElement?.getAttribute("data-key");
  const parts = content.filter((part) => part instanceof Node);
  parts.forEach((part, index) => {
    const old = main.children[index];
    if (!old) main.append(part);
    else if (!old.isEqualNode(part)) old.replaceWith(part);
  });
  while (main.children.length > parts.length) main.lastElementChild.remove();
  if (key && document.activeElement?.getAttribute("data-key") !== key) {
    [...main.querySelectorAll("[data-key]")].find((it) => it.getAttribute("data-key") === key)?.focus({ preventScroll: true });
  }
}

function showLogin(message) {
  state.user = null;
  stopFollowing();
  tell("");
  document.getElementById("confirm").close("no");
  document.title = "Log in – Pressrun";
  document.getElementById("top").hidden = true;
  const user = element("input", { name: "user", autocomplete: "username", required: true, autocapitalize: "none", spellcheck: "false", value: "admin" });
  const password = element("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  const wrong = element("p", { class: "wrong", role: "alert" }, prose(message));
  const button = element("button", { class: "primary", type: "submit" }, "Log in");
  const form = element("form", { class: "panel login" },
    element("img", { src: "/favicon.svg", alt: "", width: 40, height: 40 }),
    element("h1", null, "Pressrun"),
    element("label", null, "User", user), element("label", null, "Password", password), wrong, button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    wrong.textContent = "";
    try {
      state.user = await api("POST", "/login", { user: user.value, password: password.value });
      await begin();
    } catch (error) {
      wrong.replaceChildren(...prose(error.message));
      password.value = "";
      password.focus();
    } finally {
      button.disabled = false;
    }
  });
  show(form);
  password.focus();
}

function runOf(site, group) {
  return state.runs.find((run) => run.site === site && (!group || run.group === group) && !isOver(run));
}

function groupLine(site, group) {
  const busy = runOf(site.name, group?.name);
  const name = group?.name ?? null;
  const may = state.user?.role !== "viewer";
  const facts = group
    ? [element("strong", null, group.name), " · ", count(group.servers?.length ?? 0, "server", "servers"), " · ", group.version ? ["version ", version(group.version)] : "not published yet"].flat()
    : ["Not published yet: the first publish goes to every server."];
  const buttons = may && element("div", { class: "buttons" },
    element("button", { type: "button", class: "primary", disabled: Boolean(busy), "aria-label": `Publish ${site.name}${group ? ` to ${name}` : ""}`, "data-key": `publish ${site.name} ${name}`, click: () => order(site.name, group, "publish") }, "Publish"),
    element("button", { type: "button", disabled: Boolean(busy) || !group?.version, "aria-label": `Roll ${site.name} back${group ? ` on ${name}` : ""}`, "data-key": `rollback ${site.name} ${name}`, click: () => order(site.name, group, "rollback") }, "Roll back"));
  return element("div", { class: "group" }, element("span", null, facts), buttons);
}

function siteCard(site) {
  const published = (site.groups ?? []).map((group) => group.published).filter(Boolean).sort().at(-1);
  const busy = runOf(site.name);
  const facts = element("dl", { class: "facts" },
    element("dt", null, "Staging"), element("dd", null, path(site.staging)),
    element("dt", null, "Live"), element("dd", null, path(site.live)),
    element("dt", null, "Published"), element("dd", null, published ? time(published) : "never"));
  const groups = site.groups?.length ? site.groups.map((group) => groupLine(site, group)) : [groupLine(site, null)];
  return element("article", { class: "panel site", "aria-label": site.name },
    element("div", { class: "title" }, element("h2", null, site.name), busy ? element("a", { href: `#/runs/${busy.run}`, "data-key": `busy ${site.name}` }, `Run ${busy.run}`) : null, busy ? stateMark(busy.state) : null), facts, groups);
}

function runRows(runs) {
  return runs.map((run) => [
    element("a", { href: `#/runs/${run.run}`, "data-key": `run ${run.run}`, "aria-label": `Run ${run.run}` }, run.run), plain(run.kind), `${run.site} · ${run.group}`,
    stateMark(run.state), time(run.created), duration(run.seconds), run.message ? prose(run.message) : "",
  ]);
}

function fleet() {
  const columns = [["Server"], ["State", "nowrap"], ["Live", "nowrap"], ["Disk free", "number labelled"], ["Release", "nowrap labelled"], ["Location", "labelled"], ["Last seen", "nowrap labelled"]];
  const rows = [];
  for (const segment of state.segments) {
    const note = segment.leader ? `led by ${segment.leader}` : "no leader";
    rows.push(element("tr", { class: "segment", role: "row" }, element("th", { scope: "rowgroup", role: "rowheader", colspan: columns.length },
      segment.segment, element("span", null, `${segment.online} of ${segment.servers} online · ${note}`))));
    for (const server of state.servers.filter((server) => server.segment === segment.segment)) {
      const sites = (server.sites ?? []).map((site) => element("div", null, site.site, " ", version(site.live), site.stale ? element("span", { class: "mark" }, "stale") : null));
      rows.push([
        element("span", null, server.server, server.leader ? element("span", { class: "mark" }, "leader") : null),
        stateMark(server.state), sites.length ? sites : "–", bytes(server.disk_free_bytes), server.software ?? "–",
        server.location || "–", server.state === "offline" ? time(server.last_seen) : "now",
      ]);
    }
  }
  return panel("Fleet", count(state.servers.length, "server", "servers"),
    rows.length ? table("Fleet", columns, rows) : element("p", { class: "empty" }, prose("No server has joined yet. The command `pressrun token create` makes a token to join with.")));
}

function showOverview() {
  document.title = "Overview – Pressrun";
  const columns = [["Run", "nowrap"], ["Kind", "nowrap"], ["Site and group"], ["State", "nowrap"], ["Asked for", "nowrap"], ["Took", "number"], ["Message", "wide"]];
  const sites = state.sites.length
    ? element("div", { class: "sites" }, state.sites.map(siteCard))
    : element("section", { class: "panel" }, element("header", null, element("h2", null, "Sites")),
      element("p", { class: "empty" }, prose("There are no sites yet. The command `pressrun site create` makes one.")));
  show(element("h1", null, "Overview"), sites,
    panel("Runs", "newest first", state.runs.length ? table("Runs", columns, runRows(state.runs)) : element("p", { class: "empty" }, "There have been no runs.")),
    fleet());
}

function phase(entry) {
  const now = !entry.ended && !isOver(state.run);
  const name = entry.name === "wan" ? "WAN" : sentence(entry.name);
  return element("li", { class: now ? "now" : null }, element("span", null, name),
    element("b", null, now ? "under way" : duration(entry.seconds)), entry.bytes ? element("span", null, bytes(entry.bytes)) : null);
}

// Who needs a look comes first.
function byTrouble(servers) {
  const rank = (server) => ["bad", "warn", ""].findIndex((kind) => !kind || KINDS[kind].includes(server.state));
  const place = (server) => `${server.segment} ${server.server}`;
  return [...servers].sort((a, b) => rank(a) - rank(b) || place(a).localeCompare(place(b), undefined, { numeric: true }));
}

function tally(servers) {
  const counts = new Map();
  for (const { state } of servers) counts.set(state, (counts.get(state) ?? 0) + 1);
  return [...counts].map(([word, number]) => `${number} ${plain(word)}`).join(" · ");
}

function fact(name, ...value) {
  return element("div", null, element("dt", null, name), element("dd", null, ...value));
}

function showRun() {
  const run = state.run;
  document.title = `Run ${run.run}: ${plain(run.state)} – Pressrun`;
  const segments = (run.segments ?? []).map((it) => [it.segment, it.leader ?? "–", stateMark(it.state, isOver(run)), bytes(it.sent_bytes), it.passes, it.repaired]);
  const listed = byTrouble(run.servers ?? []);
  const servers = listed.map((it) => [it.server, it.segment, stateMark(it.state, isOver(run)), it.reason ? prose(it.reason) : ""]);
  const cancel = isOver(run) || state.user?.role === "viewer" ? null : element("div", { class: "buttons" },
    element("button", { type: "button", "data-key": "cancel", click: () => cancelRun(run.run) }, "Cancel this run"));
  const base = run.base ? [version(run.base), " → ", version(run.result)] : [version(run.result), " (the first)"];
  show(
    element("p", { class: "back" }, element("a", { href: "#/", "data-key": "back" }, "‹ Overview")),
    element("div", { class: "title" }, element("h1", null, `Run ${run.run}: ${plain(run.kind)} of ${run.site}`), stateMark(run.state), cancel),
    run.message ? element("p", { class: "lead" }, prose(run.message)) : null,
    run.warnings?.length ? element("ul", { class: "panel warnings", "aria-label": "Warnings" }, run.warnings.map((text) => element("li", null, prose(text)))) : null,
    element("dl", { class: "panel strip" },
      fact("Content group", run.group),
      fact("Version", base),
      fact("Quorum", run.quorum ? `${run.quorum} of ${servers.length || "?"}` : "–"),
      fact("Asked for", time(run.created)),
      fact("Took", duration(run.seconds)),
      fact("Assignment", run.assignment_bytes ? bytes(run.assignment_bytes) : "–")),
    panel("Phases", null,
      run.phases?.length ? element("ol", { class: "strip" }, run.phases.map(phase)) : element("p", { class: "empty" }, isOver(run) ? "None." : "It waits for its turn.")),
    panel("Servers", tally(listed),
      servers.length ? table("Servers", [["Server"], ["Segment", "labelled"], ["State", "nowrap"], ["Reason", "wide"]], servers) : element("p", { class: "empty" }, "None yet.")),
    panel("Network segments", null,
      segments.length ? table("Network segments", [["Segment"], ["Leader", "labelled"], ["State", "nowrap"], ["Sent", "number labelled"], ["Passes", "number labelled"], ["Repaired", "number labelled"]], segments) : element("p", { class: "empty" }, "None yet.")),
  );
}

function showNoRun(number) {
  document.title = "No such run – Pressrun";
  show(element("p", { class: "back" }, element("a", { href: "#/", "data-key": "back" }, "‹ Overview")),
    element("h1", null, `There is no run ${number}`));
}

function showSummary() {
  const status = state.status;
  if (!status) return;
  const { online = 0, offline = 0, stale = 0 } = status.servers ?? {};
  const parts = [count(online, "server online", "servers online"), offline ? `${offline} offline` : null, stale ? `${stale} stale` : null,
    status.runs?.running ? count(status.runs.running, "run under way", "runs under way") : null];
  // Set only when it differs: it is read aloud.
  const summary = document.getElementById("summary");
  const text = parts.filter(Boolean).join(" · ");
  if (summary.textContent !== text) summary.textContent = text;
}

// --- Orders

// Asks; `more` may add to the question while it is open.
function confirmed(title, text, yes, more) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  document.getElementById("confirm-yes").textContent = yes;
  document.getElementById("confirm-more").replaceChildren();
  dialog.returnValue = "no";
  dialog.showModal();
  const stop = new AbortController();
  more?.(document.getElementById("confirm-more"), stop.signal);
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    stop.abort();
    resolve(dialog.returnValue === "yes");
  }, { once: true }));
}

function tell(text) {
  document.getElementById("failure-text").replaceChildren(...prose(text));
  document.getElementById("failure").hidden = !text;
}

// What fails here is said until it is put away or something else is asked for.
async function attempt(work) {
  tell("");
  try {
    return await work();
  } catch (error) {
    if (error.status === 401) showLogin("The session is over. Log in again.");
    else tell(error.message);
  }
  return undefined;
}

const PATHS_SHOWN = 200;

function differences(diff) {
  const ways = [["+", "added", diff.added], ["~", "changed", diff.changed], ["−", "removed", diff.removed],
    ["→", "moved", diff.moved], ["·", "of other permissions", diff.attributes]];
  const counts = ways.filter(([, , list]) => list?.length).map(([, word, list]) => `${list.length} ${word}`);
  if (!counts.length) return [element("p", null, "Nothing differs from what is live.")];
  const lines = ways.flatMap(([sign, word, list]) => (list ?? []).map((it) =>
    element("li", { class: word }, element("span", { class: "sign", role: "img", "aria-label": word }, sign), it.from ? `${it.from} → ${it.to}` : it.path)));
  const hidden = lines.length - PATHS_SHOWN;
  return [
    element("p", null, `${counts.join(", ")}; ${bytes(diff.content_bytes)} of new content.`),
    element("ul", { class: "differences", tabindex: 0, "aria-label": "Differences" }, lines.slice(0, PATHS_SHOWN),
      hidden > 0 ? element("li", null, `and ${hidden} more`) : null),
  ];
}

// What a publish would change, beside the question whether to.
async function compare(site, group, place, signal) {
  place.replaceChildren(element("p", null, "Comparing the staging tree with what is live…"));
  let found;
  try {
    found = differences(await api("POST", `/sites/${encodeURIComponent(site)}/diff`, { group, text: false }));
  } catch (error) {
    found = [element("p", { class: "wrong" }, prose(error.message))];
  }
  if (!signal.aborted) place.replaceChildren(...found);
}

async function order(site, group, action) {
  const name = group?.name ?? null;
  const servers = count(group?.servers?.length ?? 0, "server", "servers");
  const whom = !group ? "every server" : group.all ? `all ${servers}` : `the ${servers} of ${name}`;
  const question = action === "publish"
    ? [`Publish ${site}?`, `The staging tree goes live on ${whom} at once. Without the quorum, none switches.`, "Publish", (place, signal) => compare(site, name, place, signal)]
    : [`Roll ${site} back?`, `The version that was live before returns on ${whom}.`, "Roll back"];
  if (!(await confirmed(...question))) return;
  await attempt(async () => {
    const accepted = await api("POST", `/sites/${encodeURIComponent(site)}/${action}`, { group: name });
    location.hash = `#/runs/${accepted.run}`;
  });
}

async function cancelRun(number) {
  if (!(await confirmed(`Cancel run ${number}?`, "Servers that have switched are switched back.", "Cancel the run"))) return;
  await attempt(() => api("POST", `/runs/${number}/cancel`, {}));
}

// --- Following events

// Streams end now and then and are opened again; only longer silence is worth a word.
const SILENCE_MILLIS = 2500;
const RETRY_MILLIS = 3000;

// Not everything that is shown is an event: free space, for one. And a stream whose other end hangs
// is as quiet as one on which nothing happens.
const REFRESH_MILLIS = 30_000;

let events = null;
let silence = null;
let retry = null;
let refreshing = null;
let again = false;

function heard() {
  clearTimeout(silence);
  silence = null;
  document.getElementById("lost").hidden = true;
}

function unheard() {
  silence ??= setTimeout(() => { document.getElementById("lost").hidden = false; }, SILENCE_MILLIS);
}

function stopFollowing() {
  events?.close();
  events = null;
  heard();
}

function follow() {
  events?.close();
  events = new EventSource("/api/v1/events");
  events.addEventListener("open", () => {
    heard();
    // What happened in between may be more than is replayed.
    refresh();
  });
  events.addEventListener("run", refresh);
  events.addEventListener("fleet", refresh);
  events.addEventListener("error", () => {
    unheard();
    // A browser gives a stream up that was refused: asked whether we are still welcome, then anew.
    if (events?.readyState !== EventSource.CLOSED) return;
    events = null;
    setTimeout(async () => {
      if (!state.user || events) return;
      try {
        await get("/me");
      } catch (error) {
        if (error.status === 401) return showLogin("The session is over. Log in again.");
      }
      if (state.user && !events) follow();
    }, RETRY_MILLIS);
  });
}

// Events may come by the hundred: one look at a time, and one more when something came meanwhile.
function refresh() {
  if (refreshing) {
    again = true;
    return refreshing;
  }
  refreshing = (async () => {
    do {
      again = false;
      await look();
      if (again) await new Promise((resolve) => setTimeout(resolve, 250));
    } while (again);
  })().finally(() => { refreshing = null; });
  return refreshing;
}

async function look() {
  try {
    await load();
    if (events?.readyState === EventSource.OPEN) heard();
  } catch (error) {
    if (!state.user) return;
    if (error.status === 401) showLogin("The session is over. Log in again.");
    else if (error instanceof Silence) {
      unheard();
      retry ??= setTimeout(() => {
        retry = null;
        if (state.user) refresh();
      }, RETRY_MILLIS);
    }
    else tell(error.message);
  }
}

async function runNumbered(number) {
  try {
    return await get(`/runs/${number}`);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

async function load() {
  const wanted = /^#\/runs\/(\d+)$/.exec(location.hash)?.[1];
  const [status, servers, segments, sites, runs, run] = await Promise.all([
    get("/status"), items("/servers"), items("/segments"), items("/sites"), items("/runs?limit=15"),
    wanted ? runNumbered(wanted) : null,
  ]);
  // Somebody logged out meanwhile.
  if (!state.user) return;
  Object.assign(state, { status, servers, segments, sites, runs, run });
  showSummary();
  if (run) showRun();
  else if (wanted) showNoRun(wanted);
  else showOverview();
}

setInterval(() => { if (state.user && events && !document.hidden) refresh(); }, REFRESH_MILLIS);

// --- Where the address bar leads

async function begin() {
  document.getElementById("top").hidden = false;
  document.getElementById("user").textContent = state.user.user;
  await refresh();
  follow();
}

window.addEventListener("hashchange", async () => {
  if (!state.user) return;
  tell("");
  await refresh();
  // The session may have been over.
  if (!state.user) return;
  main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
});

// The address bar says which view is shown; skipping to the content must not change it.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

document.getElementById("failure-away").addEventListener("click", () => {
  tell("");
  main.focus({ preventScroll: true });
});

document.getElementById("logout").addEventListener("click", () => attempt(async () => {
  await api("POST", "/logout", {});
  showLogin("");
}));

try {
  state.user = await get("/me");
  await begin();
} catch (error) {
  showLogin(error.status === 401 ? "" : error.message);
}
