// Sets light or dark before anything is drawn: the system's setting unless the reader chose another.
"use strict";
try {
  const chosen = localStorage.getItem("comet-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage the page follows the system.
}
document.documentElement.classList.add("live");
