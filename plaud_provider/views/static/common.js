// What both pages use. Whatever comes from the server becomes text of the page, never markup.

/** Make an element: its properties, then children, of which text becomes text. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const find = (id) => document.getElementById(id);

/** Say something to the user; nothing hides the line. */
export function say(text, isBad = false) {
  const line = find("message");
  line.textContent = text;
  line.hidden = !text;
  line.classList.toggle("bad", isBad);
}

/** Ask our own API, and return what it answers; an error has its words. */
export async function ask(path, parameters = {}, options = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null));
  const answer = await fetch(`api/${path}?${query}`, { headers: { accept: "application/json" }, ...options });
  return read(answer);
}

export async function read(answer) {
  const body = await answer.json().catch(() => null);
  if (answer.ok) return body;
  if (answer.status === 401) throw new Error("You are not logged in any more. Reload Airflow, and log in.");
  const detail = body?.detail;
  throw new Error(typeof detail === "string" ? detail : `Airflow answered ${answer.status}.`);
}

/** A time of a recording: 1:02:03, or 2:03. */
export function clock(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 60) % 60, whole % 60].map((part) => String(part).padStart(2, "0"));
  const hours = Math.floor(whole / 3600);
  return hours ? `${hours}:${parts.join(":")}` : `${Number(parts[0])}:${parts[1]}`;
}

/** How long something is, as people say it: 1 h 12 min. */
export function span(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return `${Math.max(0, Math.round(seconds))} s`;
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60).toLocaleString()} h ${minutes % 60} min`;
}

/** A moment as Airflow writes it, in the time zone that is chosen there. */
export function moment(text) {
  if (!text) return "";
  const style = { dateStyle: "short", timeStyle: "medium" };
  try {
    return new Date(text).toLocaleString("sv-SE", { ...style, timeZone: zone() });
  } catch {
    return new Date(text).toLocaleString("sv-SE", { ...style, timeZone: "UTC" });
  }
}

function zone() {
  const kept = localStorage.getItem("timezone") ?? "UTC";
  return kept.startsWith('"') ? JSON.parse(kept) : kept;
}

/** Fill the body of a table; each cell gets the title of its column, which a phone shows beside it. */
export function fillTable(body, rows, isMore = false) {
  const titles = [...body.closest("table").querySelectorAll("th")].map((one) => one.textContent);
  for (const row of rows) [...row.cells].forEach((cell, number) => { cell.dataset.label = titles[number]; });
  if (!isMore) body.replaceChildren();
  body.append(...rows);
}

export function facts(list, pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  list.replaceChildren(
    ...shown.flatMap(([name, value]) => [element("dt", {}, name), element("dd", { dir: "auto" }, String(value))]),
  );
}

/** The path of Airflow itself, which our pages are below. */
export const airflow = new URL("..", document.baseURI).pathname;
