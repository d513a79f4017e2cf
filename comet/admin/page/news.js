// What happened, newest first, in the words of `supervisor.py events`.

import { el, icon, keyed, set, text } from "./dom.js";
import { clock } from "./format.js";

const SHOWN = 60;
const SYMBOLS = { death: "m-death", back: "m-back", start: "m-start", stop: "m-stop", sick: "m-sick", fault: "m-fault", note: "m-note" };
const LOUD = new Set(["death", "back", "sick"]);

export class News {
  constructor(list, voice) {
    this.list = list;
    this.voice = voice;
    this.spoken = null;
  }

  update(events) {
    const shown = events.slice(-SHOWN).reverse();
    keyed(this.list, shown, (each) => each.n, item, () => {});
    this.speak(events);
  }

  /** For who cannot see the page: deaths and recoveries, the last ones only when many come at once. */
  speak(events) {
    const newest = events.at(-1)?.n ?? 0;
    if (this.spoken !== null && newest > this.spoken) {
      const fresh = events.filter((each) => each.n > this.spoken && LOUD.has(each.sort)).slice(-3);
      if (fresh.length) text(this.voice, fresh.map((each) => each.text).join(". "));
    }
    this.spoken = newest;
  }
}

function item(event) {
  const [subject, rest] = event.replica && event.text.startsWith(event.replica) ? [event.replica, event.text.slice(event.replica.length)] : ["", event.text];
  const time = el("time", { datetime: event.at }, clock(event.time));
  return set(el("li", {}, time, icon(SYMBOLS[event.sort], 13), el("span", {}, subject ? el("strong", {}, subject) : null, rest)), { class: event.sort, "data-event": event.event });
}
