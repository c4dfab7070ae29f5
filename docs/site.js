// In a block that shows commands with their output, the copy button copies the commands alone.
"use strict";

function commandsOf(code) {
  const lines = code.innerText.split("\n");
  return lines.filter((line) => line.startsWith("$ ")).map((line) => line.slice(2)).join("\n");
}

// Capturing: the theme's own handler reads the attribute afterwards.
document.addEventListener(
  "click",
  (event) => {
    const button = event.target.closest("[data-clipboard-target]");
    const code = button && document.querySelector(button.dataset.clipboardTarget);
    if (code && commandsOf(code)) button.dataset.clipboardText = commandsOf(code);
  },
  true,
);
