// What the console's views are made of, in reading order: asking the API, making elements, words for
// states and numbers. Knows nothing of what is shown, or when.

// --- Asking the API

class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The content control manager answered with ${status}.`);
    this.status = status;
  }
}

export class Silence extends Error {
  constructor() {
    super("The content control manager does not answer.");
  }
}

// How long an answer to a question may take. Orders may take longer: trees are read for them.
const ANSWER_MILLIS = 15_000;

export async function api(method, path, body) {
  let response, text;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      credentials: "same-origin",
      signal: method === "GET" ? AbortSignal.timeout(ANSWER_MILLIS) : undefined,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    text = await response.text();
  } catch {
    throw new Silence();
  }
  let answer = {};
  try {
    answer = text ? JSON.parse(text) : {};
  } catch {
    if (response.ok) throw new Error("The answer cannot be read.");
  }
  if (!response.ok) throw new Refusal(response.status, answer);
  return answer;
}

export const get = (path) => api("GET", path);
export const items = async (path) => (await get(path)).items ?? [];

// --- Making elements

export function element(name, attributes, ...children) {
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

// Columns are a heading and classes. In a narrow window rows are stacked (see the sheet): roles keep
// it a table there, and cells of the class "labelled" show their heading.
export function table(label, columns, rows) {
  const head = ([title, kind]) => element("th", { scope: "col", role: "columnheader", class: kind }, title);
  const cell = (content, index) => {
    const [title, kind] = columns[index];
    const nothing = content === "" || content === "–";
    return element("td", { role: "cell", class: [kind, nothing && "nothing"].filter(Boolean).join(" ") || null, "data-label": title }, content);
  };
  const line = (row) => (row instanceof Node ? row : element("tr", { role: "row" }, row.map(cell)));
  return element("div", { class: "scroll", role: "region", "aria-label": label },
    element("table", { role: "table" }, element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, columns.map(head))),
      element("tbody", { role: "rowgroup" }, rows.map(line))));
}

export function panel(title, note, ...content) {
  const header = element("header", null, element("h2", null, title), note ? element("span", { class: "muted" }, note) : null);
  return element("section", { class: "panel", "aria-label": title }, header, ...content);
}

export const KINDS = {
  good: ["online", "done", "committed", "complete", "finished"],
  busy: ["running", "queued", "paused", "waiting", "received", "receiving", "prepared", "sending", "preparing", "committing"],
  warn: ["stale", "partial", "undone", "rolled-back", "cancelled"],
  bad: ["failed", "offline", "timeout", "refused"],
};

// Where something stands; what is over is not busy, whatever it was busy with.
export function stateMark(word, over = false) {
  const found = Object.keys(KINDS).find((kind) => KINDS[kind].includes(word)) ?? "";
  const kind = over && found === "busy" ? "" : found;
  return element("span", { class: `state ${kind}` }, plain(word ?? "unknown"));
}

export const plain = (word) => String(word).replaceAll("-", " ");
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// Sentences name commands between backticks. They are left as they came: one may begin with a path.
export const prose = (text) => text.split("`").map((part, index) => (index % 2 ? element("code", null, part) : part));

// A path may be broken after its slashes.
export const path = (text) => element("span", { class: "mono" }, text.split(/(?<=\/)/).flatMap((part) => [part, element("wbr")]));

// --- Words for numbers

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let value = count;
  for (const unit of ["B", "KB", "MB", "GB", "TB"]) {
    if (value < 999.5 || unit === "TB") return `${value < 9.95 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1000;
  }
  return "";
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return "< 1 ms";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 99.95 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

export function time(text) {
  const date = new Date(text ?? "");
  if (Number.isNaN(date.getTime())) return "–";
  const today = date.toDateString() === new Date().toDateString();
  return element("time", { datetime: text, title: exact.format(date) }, (today ? clock : calendar).format(date));
}

export const version = (text) => (text ? element("span", { class: "mono", title: text }, text.slice(0, 8)) : "–");
export const isOver = (run) => !["queued", "running", "paused"].includes(run.state);
export const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;
