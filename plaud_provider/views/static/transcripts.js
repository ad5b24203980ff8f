// The page of a run's transcripts: a list, and one transcript with search, times and downloads.

import { ask, clock, element, facts, fillTable, find, moment, say, span } from "./common.js";

const COLOURS = 8;
const GROUP = 100; // segments that are laid out together, once one of them is in sight
const address = new URLSearchParams(location.search);
const run = { dag_id: address.get("dag_id") ?? "", run_id: address.get("run_id") ?? "" };
// Airflow leaves a place open where a task instance is not mapped.
const mapped = Number.parseInt(address.get("map_index") ?? "-1", 10);
const task = { ...run, task_id: address.get("task_id") ?? "", map_index: Number.isNaN(mapped) ? -1 : mapped };

let segments = []; // of the open transcript: {start, end, speaker, text, row}
let labels = new Map(); // of the speakers, by their names
let length = 0;
let marks = []; // what the search has found, in order
let current = -1;
let focused = -1;

async function start() {
  if (!run.dag_id || !run.run_id) throw new Error("Open this page from a run or a task instance of Airflow.");
  const one = address.get("transcription_id");
  if (one) return open(one);
  const found = await ask("transcripts", task);
  if (!found.transcripts.length) {
    const rest = [
      found.not_landed && `${found.not_landed} have not landed yet`,
      found.hidden && `${found.hidden} were landed by a DAG that you may not read`,
    ].filter(Boolean);
    return say(`No transcript of this ${task.task_id ? "task" : "run"} is in the warehouse${rest.length ? `: ${rest.join(", ")}` : ""}.`);
  }
  if (found.transcripts.length === 1) return open(found.transcripts[0].transcription_id);
  find("summary").textContent = [
    `${found.transcripts.length.toLocaleString()} transcripts`,
    found.not_landed ? `${found.not_landed.toLocaleString()} not landed yet` : "",
    found.hidden ? `${found.hidden.toLocaleString()} of DAGs that you may not read` : "",
  ].filter(Boolean).join(", ");
  fillTable(find("transcripts"), found.transcripts.map((one) => element("tr", {},
    element("td", { className: "whole" }, element("button", {
      type: "button", className: "link", dir: "auto", onclick: () => open(one.transcription_id).catch(fail),
    }, one.audio_uri ?? one.transcription_id)),
    element("td", {}, one.status === "failed" ? "failed" : one.language ?? ""),
    element("td", { className: "number" }, clock(one.duration_seconds)),
    element("td", { className: "number" }, String(one.speaker_count)),
    element("td", { className: "number" }, one.segment_count.toLocaleString()),
    element("td", { className: "short" }, moment(one.landed_at)),
  )));
  find("back").hidden = false;
  showList();
}

function showList() {
  find("transcript").hidden = true;
  find("list").hidden = false;
  say("");
}

async function open(id) {
  say("Loading…");
  const found = await ask("transcript", { ...run, transcription_id: id });
  find("list").hidden = true;
  find("transcript").hidden = false;
  find("recording").textContent = found.audio_uri ?? found.transcription_id;
  find("brief").textContent = [
    found.status === "failed" ? "failed" : "", found.language, clock(found.duration_seconds),
    found.speaker_count ? `${found.speaker_count} speakers` : "", `${found.segments.length.toLocaleString()} segments`,
  ].filter(Boolean).join(" · ");
  facts(find("facts"), [
    ["Transcription", found.transcription_id], ["Recording", found.audio_uri], ["Region", found.region],
    ["Language", found.language], ["Length", clock(found.duration_seconds)], ["Submitted", moment(found.submitted_at)],
    ["Completed", moment(found.completed_at)], ["Landed", moment(found.landed_at)], ["Landed by DAG", found.dag_id],
    ["in run", found.run_id], ["Why it failed", found.error],
  ]);
  find("downloads").replaceChildren(...found.formats.map((format) => element("a", {
    href: `api/export?${new URLSearchParams({ ...run, transcription_id: id, format })}`, download: "",
  }, format === "txt" ? "text" : format === "md" ? "Markdown" : format.toUpperCase())));
  find("tools").hidden = !found.shows_text;
  show(found);
  say(found.shows_text ? (found.error ?? "") : "Transcripts are not shown here: [plaud] show_transcripts is off.");
}

function show(found) {
  const all = found.segments.length || !found.text ? found.segments : [[null, null, null, found.text]];
  const names = [...new Set(all.map(([, , speaker]) => speaker).filter((name) => name !== null))];
  const colour = new Map(names.map((name, number) => [name, `s${number % COLOURS}`]));
  segments = all.map(([from, to, speaker, text], number) => {
    const row = element("li", { tabIndex: -1 },
      element("span", { className: "when", title: "Jump here" }, clock(from)),
      element("span", { className: `who ${colour.get(speaker) ?? ""}`, dir: "auto" }, speaker ?? ""),
      element("span", { className: "what", dir: "auto" }, text ?? ""));
    row.dataset.number = number;
    return { start: from, end: to, speaker, text: text ?? "", row };
  });
  length = found.duration_seconds ?? 0;
  for (const one of segments) length = Math.max(length, one.end ?? one.start ?? 0);
  const groups = [];
  for (let at = 0; at < segments.length; at += GROUP) {
    groups.push(element("ol", { start: at + 1 }, ...segments.slice(at, at + GROUP).map((one) => one.row)));
  }
  find("segments").replaceChildren(...groups);
  if (segments.length) segments[0].row.tabIndex = 0;
  labels = new Map(names.map((name) => [name, element("span", { className: colour.get(name), dir: "auto" },
    [name, share(name)].filter(Boolean).join(" · "))]));
  find("speakers").replaceChildren(...labels.values());
  focused = -1;
  drawTimeline();
  search();
  const at = new URLSearchParams(location.hash.slice(1)).get("t");
  if (at !== null) jump(Number(at));
}

function share(name) {
  const seconds = segments.reduce((sum, one) =>
    sum + (one.speaker === name && one.start !== null && one.end !== null ? Math.max(0, one.end - one.start) : 0), 0);
  return seconds ? span(seconds) : "";
}

// Who speaks when

function drawTimeline() {
  const canvas = find("timeline");
  const timed = segments.filter((one) => one.start !== null);
  canvas.hidden = !timed.length || !length;
  if (canvas.hidden) return;
  const names = [...new Set(segments.map((one) => one.speaker))].slice(0, 24);
  const lane = 14;
  const ratio = window.devicePixelRatio || 1;
  canvas.style.setProperty("height", `${names.length * lane + 6}px`);
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = (names.length * lane + 6) * ratio;
  const paint = canvas.getContext("2d");
  paint.scale(ratio, ratio);
  const width = canvas.clientWidth;
  const colours = names.map((name) => getComputedStyle(labels.get(name) ?? document.body).color);
  for (const one of timed) {
    const row = Math.max(0, names.indexOf(one.speaker));
    paint.fillStyle = colours[row];
    const from = (one.start / length) * width;
    paint.fillRect(from, 4 + row * lane, Math.max(1, ((one.end ?? one.start) / length) * width - from), lane - 4);
  }
}

find("timeline").addEventListener("click", (event) => {
  jump((event.offsetX / find("timeline").clientWidth) * length);
});
addEventListener("resize", drawTimeline);
document.addEventListener("theme", drawTimeline);

/** Go to what is said at a time: the last segment that has begun by then. */
function jump(seconds) {
  if (!Number.isFinite(seconds)) return;
  let best = -1;
  segments.forEach((one, number) => {
    if (one.start !== null && one.start <= seconds && (best < 0 || one.start >= segments[best].start)) best = number;
  });
  focus(best < 0 ? 0 : best);
}

/** Scroll to a row; again once what is around it has its real height. */
function showRow(row) {
  row.scrollIntoView({ block: "center" });
  requestAnimationFrame(() => row.scrollIntoView({ block: "center" }));
}

function focus(number) {
  const chosen = segments[number];
  if (!chosen) return;
  segments[focused]?.row.classList.remove("now");
  if (segments[focused]) segments[focused].row.tabIndex = -1;
  focused = number;
  chosen.row.tabIndex = 0;
  chosen.row.classList.add("now");
  showRow(chosen.row);
  chosen.row.focus({ preventScroll: true });
  if (chosen.start !== null) history.replaceState(null, "", `#t=${chosen.start}`);
}

// Search

let marked = []; // segments with marks

function search() {
  const wanted = find("search").value.trim().toLocaleLowerCase();
  for (const one of marked) one.row.lastChild.textContent = one.text;
  marked = [];
  marks = [];
  current = -1;
  if (wanted) {
    for (const one of segments) if (highlight(one, wanted)) marked.push(one);
  }
  find("hits").textContent = wanted ? `${marks.length ? 1 : 0} of ${marks.length.toLocaleString()}` : "";
  if (marks.length) step(1);
}

function highlight(one, wanted) {
  // Of a text whose length changes in lower case, positions would be wrong: it is compared as it is.
  const lower = one.text.toLocaleLowerCase();
  const text = lower.length === one.text.length ? lower : one.text;
  let at = text.indexOf(wanted);
  if (at < 0) return false;
  const parts = [];
  let done = 0;
  while (at >= 0) {
    const mark = element("mark", {}, one.text.slice(at, at + wanted.length));
    parts.push(one.text.slice(done, at), mark);
    marks.push(mark);
    done = at + wanted.length;
    at = text.indexOf(wanted, done);
  }
  one.row.lastChild.replaceChildren(...parts, one.text.slice(done));
  return true;
}

function step(by) {
  if (!marks.length) return;
  marks[current]?.classList.remove("now");
  current = (current + by + marks.length) % marks.length;
  marks[current].classList.add("now");
  showRow(marks[current]);
  find("hits").textContent = `${(current + 1).toLocaleString()} of ${marks.length.toLocaleString()}`;
}

let typing;
find("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(search, 120);
});
find("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
});
find("next").addEventListener("click", () => step(1));
find("previous").addEventListener("click", () => step(-1));

// Times, copying, keys

find("time").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const parts = event.target.value.trim().split(":").map(Number);
  if (parts.length <= 3 && parts.every((part) => Number.isFinite(part))) jump(parts.reduce((sum, part) => sum * 60 + part, 0));
  else say("A time looks like 90, 1:30 or 1:02:03.", true);
});

find("segments").addEventListener("click", (event) => {
  const row = event.target.closest("li");
  if (row && event.target.classList.contains("when")) focus(Number(row.dataset.number));
});

const line = (one) => [clock(one.start), one.speaker ? `${one.speaker}:` : "", one.text].filter(Boolean).join(" ");

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    say("This browser does not let a page copy here; the downloads have the text.", true);
  }
  setTimeout(() => say(""), 3000);
}

find("copy").addEventListener("click", () => copy(segments.map(line).join("\n")));
find("back").addEventListener("click", showList);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || find("transcript").hidden) return;
  if (event.target.matches("input")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const moves = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 10, PageUp: -10 };
  if (event.key in moves) focus(Math.min(segments.length - 1, Math.max(0, focused + moves[event.key])));
  else if (event.key === "Home") focus(0);
  else if (event.key === "End") focus(segments.length - 1);
  else if (event.key === "/") find("search").focus();
  else if (event.key === "t") find("time").focus();
  else if (event.key === "n" || event.key === "N") step(event.key === "n" ? 1 : -1);
  else if (event.key === "c" && segments[focused]) copy(line(segments[focused]));
  else return;
  event.preventDefault();
});

const fail = (problem) => say(problem.message, true);
start().catch(fail);
