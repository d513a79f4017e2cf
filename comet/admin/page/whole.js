// A page of many files: where one of its scripts does not come, none of them begins. Then this one says so, and begins again as soon as they come.
"use strict";
const PAUSE = 1000; // ms

function say() {
  const pulse = document.getElementById("pulse");
  if (!pulse) return;
  pulse.dataset.level = "bad";
  document.getElementById("pulse-text").textContent = "not loaded whole, trying again";
}

async function again() {
  try {
    if ((await fetch("/app.js", { cache: "no-store" })).ok) return location.reload();
  } catch {
    // Nobody answers yet.
  }
  setTimeout(again, PAUSE);
}

addEventListener("error", (event) => {
  // A script that the page can do without is no reason to load it again and again.
  if (!(event.target instanceof HTMLScriptElement) || event.target.type !== "module") return;
  say();
  addEventListener("DOMContentLoaded", say);
  setTimeout(again, PAUSE);
}, true);
