// The labeling page. Texts of samples are only ever set by textContent. "saved" is said only after the server has answered, and the server
// answers when the label is on disk. Only one request that changes something is under way at a time; keys that are pressed meanwhile do nothing.
"use strict";

const KEY = "loop-labeling-key";
const RETRY_MS = 1000;
const POLL_MS = 2000;
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", t: "tie", s: "skip", u: "undo", n: "note" };
const PLACES = { KeyT: "tie", KeyS: "skip", KeyU: "undo", KeyN: "note" }; // where a layout has no Latin letters, as the Thai one
const VERDICTS = { left: "left", right: "right", tie: "equally good" };

let view = null; // what the server said last
let busy = false;
let changes = 0; // a view that was asked for before a change is not shown after it
let failing = false; // the server did not answer

const $ = (id) => document.getElementById(id);

function token() {
  return decodeURIComponent(location.hash.slice(1));
}

function say(text, isProblem = false) {
  $("message").textContent = text;
  $("message").classList.toggle("problem", isProblem);
}

function sleep(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}

// The answer of the server, however long it takes to be there. Sending a change twice changes nothing more than sending it once, because
// each names what it is about: its pair, or what it takes back.
async function ask(method, path, body) {
  for (;;) {
    try {
      const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
      const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
      const isJson = (response.headers.get("Content-Type") ?? "").startsWith("application/json");
      return { status: response.status, body: isJson ? await response.json() : { problem: await response.text() } };
    } catch {
      failing = true;
      say(body ? "Not saved yet: the server does not answer. Trying again." : "The server does not answer. Trying again.", true);
      await sleep(RETRY_MS);
    }
  }
}

async function enter(event) {
  event.preventDefault();
  const answer = await ask("POST", "api/enter", { token: token(), rater: $("rater").value });
  if (answer.status !== 200) {
    say(answer.body.problem, true);
    return;
  }
  sessionStorage.setItem(KEY, answer.body.key);
  history.replaceState(null, "", location.pathname); // the token is spent
  say("");
  await load();
}

// The view as it is now. Others label too, and the run may go on, so the page asks again and again. A token in the address is for a new
// rater, also in a window that has a key.
async function load() {
  const before = changes;
  const answer = sessionStorage.getItem(KEY) && !token() ? await ask("GET", "api/view") : { status: 401 };
  if (busy || before !== changes) {
    await sleep(POLL_MS);
  } else if (answer.status !== 200) {
    closed(answer);
    return;
  } else {
    const isSame = answer.body.state === view?.state && answer.body.pair?.name === view?.pair?.name && !failing;
    failing = false;
    show(answer.body);
    if (!isSame) say(state());
    await sleep(POLL_MS);
  }
  load();
}

function closed(answer) {
  view = null;
  for (const id of ["pair", "buttons", "progress"]) $(id).hidden = true;
  if (answer.status === 401) {
    $("enter").hidden = !token();
    if (token()) $("rater").focus();
    else say("Open the address that the terminal shows.", true);
  } else {
    say(answer.body.problem || "The server has failed: see the terminal, and load this page again.", true);
  }
}

async function change(path, body, done) {
  if (busy) return;
  busy = true;
  changes += 1;
  buttons();
  say("Saving ...");
  const answer = await ask("POST", path, body);
  busy = false;
  if (!("state" in answer.body)) {
    closed(answer);
    return;
  }
  const isSaved = answer.status === 200;
  if (isSaved) $("note").value = "";
  show(answer.body);
  failing = false;
  say(isSaved ? `${done} ${state()}`.trim() : answer.body.problem, !isSaved);
}

const actions = {
  left: () => choose("left"),
  right: () => choose("right"),
  tie: () => choose("tie"),
  skip: () => view?.pair && change("api/skip", { pair: view.pair.name }, "Skipped. It comes again at the end."),
  undo: () => view?.undo && change("api/undo", { undo: view.undo }, "Taken back."),
  note: () => {
    if (!view?.pair || busy) return;
    $("note-row").hidden = false;
    $("note").focus();
  },
};

function choose(choice) {
  if (view?.pair) change("api/answer", { pair: view.pair.name, choice, note: $("note").value }, `Saved: ${VERDICTS[choice]}.`);
}

function onKey(event) {
  if (event.target === $("note") && event.key === "Escape") {
    $("note").blur();
    return;
  }
  const isTyping = event.target instanceof HTMLTextAreaElement || event.target instanceof HTMLInputElement;
  if (isTyping || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const isLatin = /^[\x00-\x7f]+$/.test(event.key);
  const action = KEYS[event.key] ?? (isLatin ? KEYS[event.key.toLowerCase()] : PLACES[event.code]);
  if (action && view) {
    event.preventDefault();
    actions[action]();
  }
}

// ---- showing -------------------------------------------------------------------------------------------------------

function element(kind, className, text) {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  return made;
}

function show(next) {
  const isNewPair = next.pair?.name !== view?.pair?.name;
  view = next;
  $("enter").hidden = true;
  $("title").textContent = "round" in view ? `${view.run}, round ${view.round}` : view.run;
  $("pair").hidden = !view.pair;
  $("buttons").hidden = view.state !== "asking";
  $("progress").hidden = view.state !== "asking";
  if (view.pair && isNewPair) showPair(view.pair);
  $("note-row").hidden = $("note").value === "" && document.activeElement !== $("note");
  buttons();
  if (view.state === "asking") showProgress();
  $("footer").textContent = footer();
}

function showPair(pair) {
  $("prompt").replaceChildren();
  for (const turn of pair.prompt) {
    if (turn.role) $("prompt").append(element("div", "role", turn.role));
    const text = element("div", "text", turn.text);
    text.dir = "auto";
    $("prompt").append(text);
  }
  for (const turn of pair.asked) {
    const text = element("div", "written", turn.text); // what the policy was asked, in the language that it answers in
    text.dir = "auto";
    $("prompt").append(text);
  }
  for (const side of ["left", "right"]) {
    $(side).querySelector(".text").textContent = pair[side].text;
    $(side).querySelector(".cut").hidden = pair[side].finished;
    $(side).querySelector(".written").textContent = pair[side].written;
    $(side).querySelector(".written").hidden = !pair[side].written;
    $(side).scrollTop = 0;
  }
  $("prompt").scrollTop = $("prompt").scrollHeight; // the last turn is what was answered
}

function showProgress() {
  $("bar").max = view.wanted;
  $("bar").value = Math.min(view.labeled, view.wanted);
  $("count").textContent = `${view.labeled} of ${view.wanted} pairs labeled`;
}

function buttons() {
  for (const button of document.querySelectorAll("#buttons button")) {
    const needsPair = button.dataset.action !== "undo";
    button.disabled = busy || !view || (needsPair ? !view.pair : !view.undo);
  }
}

function state() {
  if (view.state === "working") return "The run goes on. The next pairs appear here when it waits for labels again.";
  if (view.state === "over") return view.run_state === "done" ? "The run is done. Thank you." : `The run is ${view.run_state}: see its terminal.`;
  if (!view.pair) return "There is nothing left for you in this round. Thank you.";
  if (view.labeled >= view.wanted) return "There are enough labels for this round.";
  return "";
}

function footer() {
  if (view.state !== "asking") return `You are ${view.rater}.`;
  const { pairs, agree, alpha } = view.agreement;
  const parts = [`You are ${view.rater}.`];
  if (view.skipped) parts.push(`You have skipped ${view.skipped}.`);
  if (view.raters.length) parts.push(`Labels: ${view.raters.map(([name, count]) => `${name || "nameless"} ${count}`).join(", ")}.`);
  if (pairs) parts.push(`Raters agree on ${agree} of ${pairs} pairs that several have labeled` + (alpha === null ? "." : ` (alpha ${alpha.toFixed(2)}).`));
  return parts.join(" ");
}

$("enter").addEventListener("submit", enter);
document.addEventListener("keydown", onKey);
addEventListener("hashchange", () => location.reload()); // a new address in the same window
for (const button of document.querySelectorAll("#buttons button")) {
  button.addEventListener("click", () => {
    button.blur();
    actions[button.dataset.action]();
  });
}
load();
