// The administrator's console. A client of the API at /api/v1 and nothing more.
//
// In reading order: asking the API, making elements, words for numbers, the views, following
// events, and where the address bar leads. Text of others is only ever set as text.

const main = document.getElementById("main");
const state = { user: null, status: null, servers: [], segments: [], sites: [], runs: [], run: null };

// --- Asking the API

class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The content control manager answered with ${status}.`);
    this.status = status;
  }
}

async function api(method, path, body) {
  const response = await fetch(`/api/v1${path}`, {
    method,
    credentials: "same-origin",
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await response.text();
  let answer = {};
  try {
    answer = text ? JSON.parse(text) : {};
  } catch {
    if (response.ok) throw new Error("The answer cannot be read.");
  }
  if (!response.ok) throw new Refusal(response.status, answer);
  return answer;
}

const get = (path) => api("GET", path);
const items = async (path) => (await get(path)).items ?? [];

// --- Making elements

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key === "click") made.addEventListener("click", value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, String(value));
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    made.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return made;
}

function table(columns, rows) {
  const heads = columns.map(([title, kind]) => element("th", { scope: "col", class: kind }, title));
  const cell = (content, index) => element("td", { class: columns[index][1] }, content);
  const line = (row) => (row instanceof Node ? row : element("tr", null, row.map(cell)));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": columns[0][0] },
    element("table", null, element("thead", null, element("tr", null, heads)), element("tbody", null, rows.map(line))));
}

function panel(title, note, ...content) {
  const header = element("header", null, element("h2", null, title), note ? element("span", { class: "muted" }, note) : null);
  return element("section", { class: "panel", "aria-label": title }, header, ...content);
}

const KINDS = {
  good: ["online", "done", "committed", "complete", "finished"],
  busy: ["running", "queued", "waiting", "received", "receiving", "prepared", "sending", "preparing", "committing"],
  warn: ["stale", "partial", "undone", "rolled-back", "cancelled"],
  bad: ["failed", "offline", "timeout", "refused"],
};

function stateMark(word) {
  const kind = Object.keys(KINDS).find((kind) => KINDS[kind].includes(word)) ?? "";
  return element("span", { class: `state ${kind}` }, String(word ?? "unknown").replaceAll("-", " "));
}

// --- Words for numbers

function bytes(count) {
  if (count === null || count === undefined) return "–";
  let value = count;
  for (const unit of ["B", "KB", "MB", "GB", "TB"]) {
    if (value < 999.5 || unit === "TB") return `${value < 9.95 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1000;
  }
  return "";
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 99.95 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function time(text) {
  const date = new Date(text ?? "");
  return Number.isNaN(date.getTime()) ? "–" : element("time", { datetime: text }, clock.format(date));
}

const version = (text) => element("span", { class: "mono", title: text ?? "" }, text ? text.slice(0, 8) : "–");
const isOver = (run) => !["queued", "running"].includes(run.state);
const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

// --- Views

function show(...content) {
  // What has the focus keeps it when the same view is drawn anew.
  const key = document.activeElement?.getAttribute("data-key");
  main.replaceChildren(...content);
  if (key) [...main.querySelectorAll("[data-key]")].find((it) => it.getAttribute("data-key") === key)?.focus();
}

function showLogin(message) {
  stopFollowing();
  document.title = "Log in – Pressrun";
  document.getElementById("top").hidden = true;
  const user = element("input", { name: "user", autocomplete: "username", required: true, autocapitalize: "none", spellcheck: "false", value: "admin" });
  const password = element("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  const wrong = element("p", { class: "wrong", role: "alert" }, message ?? "");
  const button = element("button", { class: "primary", type: "submit" }, "Log in");
  const form = element("form", { class: "panel login" },
    element("img", { src: "/favicon.svg", alt: "", width: 40, height: 40 }),
    element("h1", null, "Pressrun"),
    element("label", null, "User", user), element("label", null, "Password", password), wrong, button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      state.user = await api("POST", "/login", { user: user.value, password: password.value });
      await begin();
    } catch (error) {
      wrong.textContent = error.message;
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
  const facts = group
    ? [element("strong", null, group.name), " · ", count(group.servers?.length ?? 0, "server", "servers"), " · ", version(group.version)]
    : ["Not published yet: the first publish goes to every server."];
  const buttons = element("div", { class: "buttons" },
    element("button", { type: "button", class: "primary", disabled: Boolean(busy), "data-key": `publish ${site.name} ${name}`, click: () => order(site.name, name, "publish") }, "Publish"),
    element("button", { type: "button", disabled: Boolean(busy) || !group?.version, "data-key": `rollback ${site.name} ${name}`, click: () => order(site.name, name, "rollback") }, "Roll back"));
  return element("div", { class: "group" }, element("span", null, facts), buttons);
}

function siteCard(site) {
  const published = (site.groups ?? []).map((group) => group.published).filter(Boolean).sort().at(-1);
  const busy = runOf(site.name);
  const facts = element("dl", { class: "facts" },
    element("dt", null, "Staging"), element("dd", { class: "mono" }, site.staging),
    element("dt", null, "Live"), element("dd", { class: "mono" }, site.live),
    element("dt", null, "Published"), element("dd", null, published ? time(published) : "never"));
  const groups = site.groups?.length ? site.groups.map((group) => groupLine(site, group)) : [groupLine(site, null)];
  return element("article", { class: "panel site", "aria-label": site.name },
    element("div", { class: "title" }, element("h2", null, site.name), busy ? stateMark(busy.state) : null), facts, groups);
}

function runRows(runs) {
  return runs.map((run) => [
    element("a", { href: `#/runs/${run.run}`, "data-key": `run ${run.run}` }, `${run.run}`), run.kind, `${run.site} · ${run.group}`,
    stateMark(run.state), time(run.created), duration(run.seconds), run.message ?? "",
  ]);
}

function fleet() {
  const columns = [["Server"], ["State", "nowrap"], ["Live", "nowrap"], ["Disk free", "number"], ["Release", "nowrap"], ["Location"], ["Last seen", "nowrap"]];
  const rows = [];
  for (const segment of state.segments) {
    const note = segment.leader ? `led by ${segment.leader}` : "no leader";
    rows.push(element("tr", { class: "segment" }, element("th", { scope: "rowgroup", colspan: columns.length },
      `${segment.segment} · ${segment.online} of ${segment.servers} online · ${note}`)));
    for (const server of state.servers.filter((server) => server.segment === segment.segment)) {
      const sites = (server.sites ?? []).map((site) => element("div", null, site.site, " ", version(site.live), site.stale ? " (stale)" : ""));
      rows.push([
        element("span", null, server.server, server.leader ? element("span", { class: "mark" }, "leader") : null),
        stateMark(server.state), sites.length ? sites : "–", bytes(server.disk_free_bytes), server.software ?? "–",
        server.location || "–", time(server.last_seen),
      ]);
    }
  }
  return panel("Fleet", count(state.servers.length, "server", "servers"),
    rows.length ? table(columns, rows) : element("p", { class: "empty" }, "No server has joined yet. The command `pressrun token create` makes a token to join with."));
}

function showOverview() {
  document.title = "Overview – Pressrun";
  const columns = [["Run", "nowrap"], ["Kind", "nowrap"], ["Site and group"], ["State", "nowrap"], ["Asked for", "nowrap"], ["Took", "number"], ["Message", "wide"]];
  const sites = state.sites.length
    ? element("div", { class: "sites" }, state.sites.map(siteCard))
    : element("section", { class: "panel" }, element("header", null, element("h2", null, "Sites")),
      element("p", { class: "empty" }, "There are no sites yet. The command `pressrun site create` makes one."));
  show(element("h1", null, "Overview"), sites,
    panel("Runs", "newest first", state.runs.length ? table(columns, runRows(state.runs)) : element("p", { class: "empty" }, "There have been no runs.")),
    fleet());
}

function phase(entry) {
  const now = !entry.ended && !isOver(state.run);
  return element("li", { class: now ? "now" : null }, element("span", null, entry.name),
    element("b", null, now ? "under way" : duration(entry.seconds)), element("span", null, entry.bytes ? bytes(entry.bytes) : " "));
}

function showRun() {
  const run = state.run;
  document.title = `Run ${run.run} – Pressrun`;
  const segments = (run.segments ?? []).map((it) => [it.segment, it.leader ?? "–", it.state, bytes(it.sent_bytes), it.passes, it.repaired]);
  const servers = (run.servers ?? []).map((it) => [it.server, it.segment, stateMark(it.state), it.reason ?? ""]);
  const cancel = isOver(run) ? null : element("div", { class: "buttons" },
    element("button", { type: "button", "data-key": "cancel", click: () => cancelRun(run.run) }, "Cancel this run"));
  show(
    element("p", { class: "back" }, element("a", { href: "#/", "data-key": "back" }, "Overview")),
    element("div", { class: "title" }, element("h1", null, `Run ${run.run}: ${run.kind} of ${run.site}`), stateMark(run.state), cancel),
    run.message ? element("p", { class: "lead" }, run.message) : null,
    run.warnings?.length ? element("ul", { class: "panel warnings" }, run.warnings.map((text) => element("li", null, text))) : null,
    panel("Phases", `${duration(run.seconds)} in all, assignment of ${bytes(run.assignment_bytes)}`,
      run.phases?.length ? element("ol", { class: "phases" }, run.phases.map(phase)) : element("p", { class: "empty" }, "It waits for its turn.")),
    panel("Facts", null, element("div", { class: "empty" }, element("dl", { class: "facts" },
      element("dt", null, "Content group"), element("dd", null, run.group),
      element("dt", null, "Version"), element("dd", null, version(run.base), " to ", version(run.result)),
      element("dt", null, "Quorum"), element("dd", null, run.quorum ?? "–"),
      element("dt", null, "Asked for"), element("dd", null, time(run.created)),
      element("dt", null, "Ended"), element("dd", null, time(run.ended))))),
    panel("Servers", count(servers.length, "server", "servers"),
      servers.length ? table([["Server"], ["Segment"], ["State", "nowrap"], ["Reason", "wide"]], servers) : element("p", { class: "empty" }, "None yet.")),
    panel("Network segments", null,
      segments.length ? table([["Segment"], ["Leader"], ["State"], ["Sent", "number"], ["Passes", "number"], ["Repaired", "number"]], segments) : element("p", { class: "empty" }, "None yet.")),
  );
}

function showSummary() {
  const status = state.status;
  if (!status) return;
  const { online = 0, offline = 0, stale = 0 } = status.servers ?? {};
  const parts = [`${online} online`, offline ? `${offline} offline` : null, stale ? `${stale} stale` : null,
    status.runs?.running ? count(status.runs.running, "run under way", "runs under way") : null];
  document.getElementById("summary").textContent = parts.filter(Boolean).join(" · ");
}

// --- Orders

function confirmed(title, text, yes) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  document.getElementById("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

async function attempt(work) {
  const failure = document.getElementById("failure");
  try {
    failure.hidden = true;
    return await work();
  } catch (error) {
    if (error.status === 401) return showLogin("The session is over. Log in again.");
    failure.textContent = error.message;
    failure.hidden = false;
  }
  return undefined;
}

async function order(site, group, action) {
  const whom = group ? `the servers of ${group}` : "every server";
  const question = action === "publish"
    ? [`Publish ${site}?`, `The staging tree goes live on ${whom}: all of them switch, or none does.`, "Publish"]
    : [`Roll ${site} back?`, `The version that was live before returns on ${whom}.`, "Roll back"];
  if (!(await confirmed(...question))) return;
  await attempt(async () => {
    const accepted = await api("POST", `/sites/${encodeURIComponent(site)}/${action}`, { group });
    location.hash = `#/runs/${accepted.run}`;
  });
}

async function cancelRun(number) {
  if (!(await confirmed(`Cancel run ${number}?`, "Servers that have switched are switched back.", "Cancel the run"))) return;
  await attempt(() => api("POST", `/runs/${number}/cancel`, {}));
}

// --- Following events

let events = null;
let refreshing = null;
let again = false;

function stopFollowing() {
  events?.close();
  events = null;
  document.getElementById("lost").hidden = true;
}

function follow() {
  stopFollowing();
  events = new EventSource("/api/v1/events");
  const lost = document.getElementById("lost");
  events.addEventListener("open", () => {
    lost.hidden = true;
    // What happened in between may be more than is replayed.
    refresh();
  });
  events.addEventListener("run", refresh);
  events.addEventListener("fleet", refresh);
  events.addEventListener("error", async () => {
    lost.hidden = false;
    // A browser gives a stream up that was refused: asked whether we are still welcome, then anew.
    if (events?.readyState !== EventSource.CLOSED) return;
    stopFollowing();
    lost.hidden = false;
    setTimeout(async () => {
      if (!state.user || events) return;
      try {
        await get("/me");
        follow();
      } catch (error) {
        if (error.status === 401) showLogin("The session is over. Log in again.");
        else follow();
      }
    }, 3000);
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
      await attempt(load);
      if (again) await new Promise((resolve) => setTimeout(resolve, 250));
    } while (again);
  })().finally(() => { refreshing = null; });
  return refreshing;
}

async function load() {
  const wanted = /^#\/runs\/(\d+)$/.exec(location.hash);
  const [status, servers, segments, sites, runs, run] = await Promise.all([
    get("/status"), items("/servers"), items("/segments"), items("/sites"), items("/runs?limit=15"),
    wanted ? get(`/runs/${wanted[1]}`) : null,
  ]);
  Object.assign(state, { status, servers, segments, sites, runs, run });
  showSummary();
  if (run) showRun();
  else showOverview();
}

// --- Where the address bar leads

async function begin() {
  document.getElementById("top").hidden = false;
  document.getElementById("user").textContent = state.user.user;
  await refresh();
  follow();
}

window.addEventListener("hashchange", async () => {
  if (!state.user) return;
  await refresh();
  main.focus();
  window.scrollTo(0, 0);
});

// The address bar says which view is shown; skipping to the content must not change it.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

document.getElementById("logout").addEventListener("click", () => attempt(async () => {
  await api("POST", "/logout", {});
  state.user = null;
  showLogin("");
}));

try {
  state.user = await get("/me");
  await begin();
} catch (error) {
  showLogin(error.status === 401 ? "" : error.message);
}
