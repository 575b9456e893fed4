"use strict";
// A rater's way through the page. Everything shown is set as text or as a picture's address.
const content = JSON.parse(document.getElementById("content").textContent);
const { page, questions, trials, pictures } = content;
const asked = [...new Set(trials.map((t) => t.question))];
const get = (id) => document.getElementById(id);
const screens = ["start", "intro", "trial", "done"];
const NAME = `captionmix:${page}`;

let rater = null; // whose votes these are
let votes = {}; // trial -> { choice, milliseconds }
let at = 0; // trial that is shown
let shownAt = 0; // when it was
let introduced = null; // question that was last introduced

// Storage may be forbidden or full: votes then live as long as the page, and the rater is told.
function keep(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    get("warning").textContent = "This browser keeps nothing: download your votes before you close the page.";
    get("warning").hidden = false;
  }
}
function kept(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}
function stored(name) {
  try {
    const found = JSON.parse(kept(`${NAME}:${name}`));
    return found !== null && typeof found === "object" ? found : {};
  } catch {
    return {};
  }
}

function open(screen) {
  for (const name of screens) get(name).hidden = name !== screen;
  get("footer").hidden = rater === null;
}
function begin(name) {
  rater = name;
  votes = stored(name);
  introduced = null;
  keep(NAME, name);
  const first = trials.findIndex((t) => !(t.id in votes));
  show(first < 0 ? trials.length : first);
}
function show(index) {
  at = index;
  const answered = trials.filter((t) => t.id in votes).length;
  get("bar").max = trials.length;
  get("bar").value = answered;
  get("count").textContent = `${answered} of ${trials.length}`;
  get("lines").value = lines();
  if (at >= trials.length) {
    open("done");
    get("thanks").focus();
    return;
  }
  const trial = trials[at];
  const question = questions[trial.question];
  if (introduced !== trial.question) {
    introduced = trial.question;
    get("intro-part").textContent = asked.length > 1 ? `Question ${asked.indexOf(trial.question) + 1} of ${asked.length}` : "";
    get("intro-question").textContent = question.question;
    get("intro-advice").textContent = question.advice;
    open("intro");
    get("go").focus();
    return;
  }
  get("question").textContent = question.question;
  get("advice").textContent = question.advice;
  get("prompt").textContent = trial.prompt ?? "";
  get("prompt").hidden = !question.shows_prompt;
  get("left").src = pictures[trial.left];
  get("right").src = pictures[trial.right];
  for (const button of document.querySelectorAll("[data-choice]"))
    button.setAttribute("aria-pressed", String(votes[trial.id]?.choice === button.dataset.choice));
  get("back").disabled = at === 0;
  get("next").disabled = !(trial.id in votes);
  open("trial");
  shownAt = performance.now();
}
function vote(choice) {
  const milliseconds = Math.round(performance.now() - shownAt);
  // What another tab has kept meanwhile stays.
  votes = { ...votes, ...stored(rater), [trials[at].id]: { choice, milliseconds } };
  keep(`${NAME}:${rater}`, JSON.stringify(votes));
  const next = trials.findIndex((t, index) => index > at && !(t.id in votes));
  const first = trials.findIndex((t) => !(t.id in votes));
  show(next >= 0 ? next : first >= 0 ? first : trials.length);
}
function lines() {
  return trials
    .filter((t) => t.id in votes)
    .map((t) => JSON.stringify({ page, rater, trial: t.id, ...votes[t.id] }) + "\n")
    .join("");
}

get("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = get("rater").value.trim();
  if (name) begin(name);
});
get("go").addEventListener("click", () => show(at));
get("back").addEventListener("click", () => show(Math.max(at - 1, 0)));
get("next").addEventListener("click", () => show(at + 1));
get("review").addEventListener("click", () => show(trials.length - 1));
get("leave").addEventListener("click", () => {
  rater = null;
  keep(NAME, "");
  get("rater").value = "";
  open("start");
  get("rater").focus();
});
get("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines()], { type: "application/x-ndjson" }));
  link.download = `votes-${rater.replace(/[^\p{L}\p{N}_-]+/gu, "_")}-${page.slice(0, 8)}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});
for (const button of document.querySelectorAll("[data-choice]"))
  button.addEventListener("click", () => vote(button.dataset.choice));

const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" };
document.addEventListener("keydown", (event) => {
  // A key held down is one answer, and keys with a modifier belong to the browser.
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (get("trial").hidden || event.target.matches("input, textarea")) return;
  if (event.key in keys) {
    event.preventDefault();
    vote(keys[event.key]);
  } else if (event.key === "Backspace" && at > 0) {
    event.preventDefault();
    show(at - 1);
  }
});

const last = kept(NAME);
if (last) begin(last);
else open("start");
