// Keys and clicks become one event that names the sample and its version: the server ignores outdated actions.
const KEYS = {
  a: "accept", e: "edit", r: "reject", u: "undo", n: "undecided", "?": "help",
  b: "boxes", ArrowRight: "forward", j: "forward", ArrowLeft: "backward", k: "backward",
};
const MAY_REPEAT = new Set(["forward", "backward"]);

const currentSample = () => document.querySelector(".image-panel")?.dataset ?? { version: "", sample: "" };
const editor = () => document.querySelector(".editor textarea");
const draftKey = (sample) => `draft of ${sample}`;

function reviewAction(action, event) {
  // A clicked button gives up the focus, so that the space bar does not press it again.
  if (event?.detail) event.currentTarget?.blur?.();
  if (action === "boxes") {
    document.body.classList.toggle("without-boxes");
    return;
  }
  const { version, sample } = currentSample();
  // Further typing is meant for the next sample and must not change this text.
  if (action === "save" || action === "cancel") editor()?.blur();
  emitEvent("review", { action, version, sample, text: editor()?.value ?? "" });
}

// A draft survives a reload of the page and a server that stops during the edit.
function reviewRestoreDraft() {
  const field = editor();
  if (!field) return;
  const draft = sessionStorage.getItem(draftKey(currentSample().sample));
  if (draft !== null) {
    field.value = draft;
    field.dispatchEvent(new Event("input"));
  }
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

// The address restores the state after a reload. A new sample starts at the top of the page.
function reviewUpdateAddress(address) {
  const before = new URLSearchParams(location.search).get("sample");
  history.replaceState(null, "", address);
  if (before !== new URLSearchParams(address).get("sample")) scrollTo(0, 0);
}

function reviewDiscardDraft(sample) {
  sessionStorage.removeItem(draftKey(sample));
}

// A click on a box of the image, or on its button, flags the box as wrong, or takes the flag back.
document.addEventListener("click", (event) => {
  const box = event.target.closest?.("[data-box]");
  if (!box) return;
  box.blur();
  reviewAction(`box:${box.dataset.box}`);
});

document.addEventListener("input", (event) => {
  if (event.isTrusted && event.target === editor()) {
    sessionStorage.setItem(draftKey(currentSample().sample), event.target.value);
  }
});

document.addEventListener("keydown", (event) => {
  if (event.target === editor()) {
    if (event.key === "Escape") reviewAction("cancel");
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) reviewAction("save");
    else return;
    event.preventDefault();
    return;
  }
  const isTyping = event.target.closest?.("input, select, textarea, .q-menu, .q-dialog");
  if (isTyping || event.altKey) return;
  const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
  if ((event.ctrlKey || event.metaKey) && !isUndo) return;
  const box = /^[1-9]$/.test(event.key) && document.querySelectorAll(".flag-box")[event.key - 1];
  if (box) {
    if (!event.repeat) reviewAction(`box:${box.dataset.box}`);
    event.preventDefault();
    return;
  }
  const action = isUndo ? "undo" : KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!action || (event.repeat && !MAY_REPEAT.has(action))) return;
  event.preventDefault();
  reviewAction(action);
});
