// Light or dark, before anything is drawn: the system's word unless this reader chose otherwise.
"use strict";
try {
  const chosen = localStorage.getItem("comet-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that keeps nothing follows the system.
}
document.documentElement.classList.add("live");
