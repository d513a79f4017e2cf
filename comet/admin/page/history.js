// What is remembered between answers: the events and the samples of the last five minutes, on the supervisor's clock.
//
// An answer brings the newest events only. Where they do not join on to what is known (the first time, or after a silence) the rest is
// asked for; where they begin anew (a cluster that was cleaned and made again) what is known is forgotten.

import { event, WINDOW } from "./model.js";

const KEPT = 3000;

export class History {
  /** `fetchAfter(n)` promises the events numbered above n. */
  constructor(fetchAfter) {
    this.fetchAfter = fetchAfter;
    this.events = [];
    this.samples = [];
    this.now = Date.now();
    this.asking = false;
  }

  /** Take an answer in. Returns whether events are missing, which are then asked for. */
  take(told) {
    const fresh = told.events ?? [];
    const newest = fresh.at(-1)?.number ?? 0;
    if (newest < this.last) this.events = [];
    const joins = !fresh.length || fresh[0].number <= this.last + 1;
    if (joins) this.join(fresh);
    const { at = [], requests_per_s: rates = [], errors_per_s: errors = [] } = told.history ?? {};
    this.samples = at.map((time, index) => ({ time: time * 1000, rate: rates[index], errors: errors[index] }));
    this.now = Math.max(this.samples.at(-1)?.time ?? 0, this.events.at(-1)?.time ?? 0) || Date.now();
    if (!joins && !this.asking) this.ask();
    return !joins;
  }

  get last() {
    return this.events.at(-1)?.n ?? 0;
  }

  join(records) {
    const known = this.last;
    this.events.push(...records.filter((record) => record.number > known).map(event));
    const oldest = (this.events.at(-1)?.time ?? 0) - 2 * WINDOW;
    if (this.events.length > KEPT) this.events = this.events.filter((each) => each.time > oldest).slice(-KEPT);
  }

  async ask() {
    this.asking = true;
    try {
      this.join((await this.fetchAfter(this.last)).events);
    } catch {
      // The next answer does not join on either, and asks again.
    } finally {
      this.asking = false;
    }
  }
}
