"use strict";
(() => {
  const status = document.querySelector(".status");
  let hiding = 0;

  const say = (text) => {
    status.textContent = text;
    clearTimeout(hiding);
    hiding = setTimeout(() => { status.textContent = ""; }, 4000);
  };

  // Where the clipboard is out of reach, as in some browsers for a file, a selected text can still be copied.
  const copySelected = (text) => {
    const field = document.createElement("textarea");
    field.value = text;
    field.style.position = "fixed";
    field.style.opacity = "0";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  };

  const copy = async (text) => {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      done = copySelected(text);
    }
    say(done ? `Copied: ${text}` : `Copy this line: ${text}`);
  };

  for (const pre of document.querySelectorAll("pre")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "copy";
    button.dataset.copy = pre.textContent.trim();
    pre.prepend(button);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) {
      button.focus(); // some browsers do not focus a button that is clicked, and what it tells hangs on that
      copy(button.dataset.copy);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.activeElement.matches(".dot")) {
      document.activeElement.blur();
    }
  });
  document.documentElement.classList.add("scripted");
})();
