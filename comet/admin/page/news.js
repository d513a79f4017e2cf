// Lists the events, newest first, with the texts of `supervisor.py events`.

import { el, icon, keyed, set, text } from "./dom.js";
import { clock } from "./format.js";

const MAX_SHOWN = 60;
const SYMBOLS = { death: "m-death", back: "m-back", start: "m-start", stop: "m-stop", adopted: "m-adopted", unhealthy: "m-unhealthy", fault: "m-fault", note: "m-note" };
const ANNOUNCED = new Set(["death", "back", "unhealthy"]);

export class News {
  constructor(list, voice) {
    this.list = list;
    this.voice = voice;
    this.spoken = null;
  }

  update(events) {
    const shown = events.slice(-MAX_SHOWN).reverse();
    keyed(this.list, shown, (each) => each.n, item, () => {});
    this.speak(events);
  }

  /** Announce deaths and recoveries to screen readers; of many at once only the last ones. */
  speak(events) {
    const newest = events.at(-1)?.n ?? 0;
    if (this.spoken !== null && newest > this.spoken) {
      const fresh = events.filter((each) => each.n > this.spoken && ANNOUNCED.has(each.sort)).slice(-3);
      if (fresh.length) text(this.voice, fresh.map((each) => each.text).join(". "));
    }
    this.spoken = newest;
  }
}

function item(event) {
  const [subject, rest] = event.replica && event.text.startsWith(event.replica) ? [event.replica, event.text.slice(event.replica.length)] : ["", event.text];
  const time = el("time", { datetime: event.at }, clock(event.time));
  const begins = event.event === "supervisor_started";
  const note = begins ? el("span", { class: "quiet" }, " (below: before this start)") : null;
  const words = el("span", {}, subject ? el("strong", {}, subject) : null, rest, note);
  return set(el("li", {}, time, icon(SYMBOLS[event.sort], 13), words), { class: `${event.sort}${begins ? " begin-of-run" : ""}`, "data-event": event.event });
}
