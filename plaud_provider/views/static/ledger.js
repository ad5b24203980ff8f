// The page of the ledger: what is where, how fast it lands, what needs somebody.

import { airflow, ask, clock, element, facts, fillTable, find, moment, read, say, span } from "./common.js";

const UNDER_WAY = ["claimed", "submitting", "processing"];
const ENDED = ["landed", "failed", "unknown", "expired"];
const form = find("filters");
const dialog = find("one");
const given = new URLSearchParams(location.search);
let last = null; // the recording that the list ends with
let price = null;

for (const state of [...UNDER_WAY, ...ENDED]) form.elements.state.append(element("option", { value: state }, state));
for (const name of ["run_id", "folder", "state"]) form.elements[name].value = given.get(name) ?? "";

const chosen = () => Object.fromEntries(new FormData(form));
const money = (seconds) => (price ? `${((seconds / 3600) * price[0]).toFixed(2)} ${price[1]}` : "");
const count = (number) => number.toLocaleString();

function choose(name, value) {
  if (name === "dag_id" && ![...form.elements.dag_id.options].some((one) => one.value === value)) {
    form.elements.dag_id.append(element("option", { value }, value));
  }
  form.elements[name].value = value;
}

choose("dag_id", given.get("dag_id") ?? "");

async function show() {
  say("Loading…");
  const filters = chosen();
  history.replaceState(null, "", `?${new URLSearchParams(Object.entries(filters).filter(([, value]) => value))}`);
  const found = await ask("ledger", filters);
  find("overview").hidden = !found.exists;
  if (!found.exists) return say(`${found.conn_id} has no ledger yet: no run has used it.`);
  price = found.price;
  const states = found.states;
  for (const dag of found.dag_ids) choose("dag_id", dag);
  form.elements.dag_id.value = filters.dag_id ?? "";
  document.querySelectorAll(".money").forEach((cell) => { cell.hidden = !price; });

  showFigures(found);
  showQuota(filters).catch(() => {});
  fillTable(find("states"), found.states.map((one) => element("tr", {},
    element("td", {}, badge(one.state, () => narrow("state", one.state))),
    element("td", { className: "number" }, count(one.recordings)),
    element("td", { className: "number" }, measured(one)),
    element("td", { className: "number money", hidden: !price }, money(one.seconds)),
    element("td", { className: "short" }, moment(one.since)),
    element("td", { className: "advice whole" }, found.advice[one.state] ?? ""))));
  showHours(found.ended_per_hour);
  find("waiting").hidden = !found.oldest.length;
  find("oldest").replaceChildren(...found.oldest.map((one) => element("li", {},
    `${span((Date.now() - new Date(one.updated_at)) / 1000)}: `, name(one))));
  find("trouble").hidden = !found.reasons.length;
  fillTable(find("reasons"), found.reasons.map((one) => element("tr", {},
    element("td", {}, badge(one.state)),
    element("td", { className: "number" }, count(one.recordings)),
    element("td", {}, element("button", {
      type: "button", className: "link", dir: "auto", onclick: () => open(one.example).catch(fail),
    }, one.reason || "no reason given")),
    element("td", { className: "short" }, one.is_billed ? "yes" : one.state === "unknown" ? "perhaps" : "no"),
    element("td", { className: "advice whole" }, found.advice[one.state] ?? ""))));
  find("recordings").replaceChildren();
  last = null;
  say("");
  await more();
}

/** A state in its colour; with an action, a button. */
function badge(state, onclick = null) {
  return onclick
    ? element("button", { type: "button", className: `state ${state}`, title: `Only ${state}`, onclick }, state)
    : element("span", { className: `state ${state}` }, state);
}

const measured = (one) => span(one.seconds) + (one.unmeasured ? ` + ${count(one.unmeasured)} of unknown length` : "");

function showFigures(found) {
  const sum = (states, field) => found.states.filter((one) => states.includes(one.state)).reduce((all, one) => all + one[field], 0);
  const all = [...UNDER_WAY, ...ENDED];
  const left = sum(UNDER_WAY, "recordings");
  const figures = [
    ["Recordings", count(sum(all, "recordings")), `ledger ${found.conn_id}`],
    ["Audio", span(sum(all, "seconds")), price ? money(sum(all, "seconds")) : ""],
    ["Under way", count(left), left && found.hours_left === null ? "no end to be told at this rate" : ""],
    ["Landed in the last hour", count(found.landed_in_last_hour)],
    left && found.hours_left !== null && ["Left at this rate", span(found.hours_left * 3600)],
  ].filter(Boolean);
  find("figures").replaceChildren(...figures.map(figure));
}

const figure = ([name, value, more]) =>
  element("div", {}, element("dt", {}, name), element("dd", {}, value, more ? element("small", {}, more) : null));

/** What the quota's own store says; nothing if it says nothing. */
async function showQuota(filters) {
  const quota = await ask("quota", filters);
  if (!quota) return;
  const more = quota.paused_seconds ? `paused for ${Math.ceil(quota.paused_seconds)} s` : `${count(quota.spare)} to spare`;
  find("quota")?.remove();
  const shown = figure(["Requests in the last minute", `${count(quota.used)} of ${count(Math.floor(quota.limit))}`, more]);
  shown.id = "quota";
  find("figures").append(shown);
}

/** Stacked bars: what landed at the bottom, above it what went wrong. */
function showHours(hours) {
  find("pace").hidden = hours.length < 2;
  const sums = hours.map((hour) => Object.values(hour).reduce((sum, many) => sum + many, 0));
  const most = Math.max(1, ...sums);
  find("most").textContent = `highest: ${count(Math.max(...sums))} in an hour`;
  find("hours").replaceChildren(...hours.map((hour, number) => {
    const ago = hours.length - number;
    const parts = ENDED.filter((state) => hour[state]);
    const text = `${ago} to ${ago - 1} h ago: ${parts.map((state) => `${count(hour[state])} ${state}`).join(", ") || "none"}`;
    return element("li", { title: text, role: "img", "aria-label": text }, ...parts.map((state) => {
      const part = element("span", { className: state });
      part.style.setProperty("height", `${(hour[state] / most) * 100}%`);
      return part;
    }));
  }));
}

const name = (one) => element("button", {
  type: "button", className: "link", dir: "auto", onclick: () => open(one.recording_key).catch(fail),
}, one.audio_uri ?? one.recording_key);

async function more() {
  const after = last === null ? {} : { after_time: last.updated_at, after_key: last.recording_key };
  const rows = await ask("recordings", { ...chosen(), ...after });
  fillTable(find("recordings"), rows.map((one) => element("tr", {},
    element("td", { className: "whole" }, name(one), one.error ? element("div", { className: "faint", dir: "auto" }, one.error) : null),
    element("td", {}, badge(one.state)),
    element("td", { className: "number" }, clock(one.duration_seconds)),
    element("td", { className: "short" }, moment(one.updated_at)))), true);
  last = rows.at(-1) ?? last;
  find("more").hidden = rows.length < 100;
}

function narrow(field, value) {
  choose(field, value);
  show().catch(fail);
}

// One recording, and what may be done about it

async function open(key) {
  const one = await ask("recording", { ...chosen(), key });
  find("one-title").textContent = one.audio_uri ?? one.recording_key;
  facts(find("one-facts"), [
    ["State", one.state], ["Why", one.error], ["What to do", one.advice], ["Transcription", one.transcription_id],
    ["Length", clock(one.duration_seconds)], ["Price", one.duration_seconds ? money(one.duration_seconds) : ""],
    ["Claimed", moment(one.times.claimed_at)], ["Sent", moment(one.times.submitted_at)],
    ["Accepted", moment(one.times.accepted_at)], ["Ended", moment(one.times.finished_at)],
    ["Leased until", moment(one.times.lease_until)],
    ["Purged", moment(one.times.purged_at)], ["Target", one.target], ["DAG", one.owner.dag_id],
    ["Run", one.owner.run_id], ["Task", `${one.owner.task_id}${one.owner.map_index < 0 ? "" : ` [${one.owner.map_index}]`}, try ${one.owner.try_number}`],
    ["Language", one.language], ["Speakers", one.speaker_diarization ? "asked for" : "not asked for"],
    ["Region", one.region], ["Key", one.recording_key],
  ]);
  const run = { dag_id: one.owner.dag_id, run_id: one.owner.run_id };
  find("one-actions").replaceChildren(...[
    element("a", { href: `${airflow}dags/${encodeURIComponent(run.dag_id)}/runs/${encodeURIComponent(run.run_id)}`, target: "_top" }, "Its run in Airflow"),
    one.state === "landed" && one.transcription_id
      ? element("a", { href: `transcripts?${new URLSearchParams({ ...run, transcription_id: one.transcription_id })}` }, "Its transcript") : null,
    element("button", { type: "button", className: "link", onclick: () => { dialog.close(); choose("dag_id", run.dag_id); narrow("run_id", run.run_id); } }, "All of its run"),
    one.may_mark ? element("button", { type: "button", onclick: () => askForId(one) }, "Mark as known…") : null,
    one.pay_again ? element("button", { type: "button", onclick: () => askToPay(one) }, "Pay again…") : null,
    element("p", { id: "answer", role: "status" }),
  ].filter(Boolean));
  if (!dialog.open) dialog.showModal();
}

/** Put a question below the buttons; nothing happens before it is answered. */
function question(text, confirm, action, ...fields) {
  find("one-actions").querySelector(".question")?.remove();
  const yes = element("button", { type: "button" }, confirm);
  yes.addEventListener("click", () => {
    yes.disabled = true;
    action().catch(failHere).finally(() => { yes.disabled = false; });
  });
  const box = element("div", { className: "question" }, element("p", {}, text), ...fields, yes);
  find("one-actions").append(box);
  box.querySelector("input, button").focus();
}

const failHere = (problem) => {
  find("answer").textContent = problem.message;
  find("answer").className = "bad";
};

function done(text) {
  find("one-actions").querySelector(".question")?.remove();
  find("answer").textContent = text;
  find("answer").className = "";
}

function askForId(one) {
  const id = element("input", { type: "text", placeholder: "txn_…", "aria-label": "Transcription id" });
  question(
    "Plaud's console shows this recording with an id? Then it is paid for already: the next run over its folder lands it, and nothing is paid again.",
    "Mark as known",
    async () => {
      await read(await fetch(`api/mark?${new URLSearchParams(Object.entries(chosen()).filter(([, value]) => value))}`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-requested-with": "plaud" },
        body: JSON.stringify({ recording_key: one.recording_key, transcription_id: id.value }),
      }));
      await show();
      await open(one.recording_key);
      done("It is processing now; the next run over its folder lands it.");
    },
    id,
  );
}

function askToPay(one) {
  const { folder, recordings, seconds, unmeasured } = one.pay_again;
  question(
    `A run of ${one.owner.dag_id} is started that submits all ${one.state} recordings below ${folder} again, whoever submitted them: `
      + `${count(recordings)} ${recordings === 1 ? "recording" : "recordings"}, ${span(seconds)} of audio${unmeasured ? ` and ${count(unmeasured)} of unknown length` : ""}`
      + `${price ? `, ${money(seconds)}` : ""}. Plaud bills what it accepts again. What is new below that folder is submitted as well.`,
    "Pay again",
    async () => {
      // Airflow's own API: it asks who may, and keeps who did.
      const run = await read(await fetch(`${airflow}api/v2/dags/${encodeURIComponent(one.owner.dag_id)}/dagRuns`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          logical_date: null,
          conf: { archive: folder, resubmit: [one.state] },
          note: `Pay again for ${one.state} recordings below ${folder}`,
        }),
      }));
      done(`Run ${run.dag_run_id} is started.`);
    },
  );
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  show().catch(fail);
});
find("more").addEventListener("click", () => more().catch(fail));

const fail = (problem) => say(problem.message, true);
show().catch(fail);
