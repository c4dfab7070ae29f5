// Keys and clicks become one event, which says what sample they were meant for: what was not shown is never decided.
const KEYS = {
  a: "accept", e: "edit", r: "reject", u: "undo", n: "undecided", "?": "help",
  b: "boxes", ArrowRight: "forward", j: "forward", ArrowLeft: "backward", k: "backward",
};
const MAY_REPEAT = new Set(["forward", "backward"]);

const shown = () => document.querySelector(".picture")?.dataset ?? { mark: "", sample: "" };
const editor = () => document.querySelector(".editor textarea");
const draft = (sample) => `draft of ${sample}`;

function reviewAct(action, event) {
  // A button that was clicked gives the keyboard back, so that the space bar does not press it again.
  if (event?.detail) event.currentTarget?.blur?.();
  if (action === "boxes") return document.body.classList.toggle("without-boxes");
  const { mark, sample } = shown();
  // What is typed from here on is meant for the next sample, and no part of this one's text.
  if (action === "save" || action === "cancel") editor()?.blur();
  emitEvent("review", { action, mark, sample, text: editor()?.value ?? "" });
}

// What was typed outlives a reload of the page, and a server that ends in the middle of it.
function reviewEdit() {
  const field = editor();
  if (!field) return;
  const kept = sessionStorage.getItem(draft(shown().sample));
  if (kept !== null) {
    field.value = kept;
    field.dispatchEvent(new Event("input"));
  }
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

// The address says what a reload begins with; another sample is looked at from its top.
function reviewAt(address) {
  const before = new URLSearchParams(location.search).get("sample");
  history.replaceState(null, "", address);
  if (before !== new URLSearchParams(address).get("sample")) scrollTo(0, 0);
}

function reviewDone(sample) {
  sessionStorage.removeItem(draft(sample));
}

document.addEventListener("input", (event) => {
  if (event.isTrusted && event.target === editor()) sessionStorage.setItem(draft(shown().sample), event.target.value);
});

document.addEventListener("keydown", (event) => {
  if (event.target === editor()) {
    if (event.key === "Escape") reviewAct("cancel");
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) reviewAct("save");
    else return;
    event.preventDefault();
    return;
  }
  const typing = event.target.closest?.("input, select, textarea, .q-menu, .q-dialog");
  if (typing || event.altKey) return;
  const undoes = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
  if ((event.ctrlKey || event.metaKey) && !undoes) return;
  const action = undoes ? "undo" : KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!action || (event.repeat && !MAY_REPEAT.has(action))) return;
  event.preventDefault();
  reviewAct(action);
});
