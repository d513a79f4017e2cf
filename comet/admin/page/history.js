// Keeps the events and samples of the last five minutes between answers, on the supervisor's clock.
//
// An answer contains the newest events only. If there is a gap before them (the first answer, or after an outage), the missing events
// are fetched; if their numbers start again (a cluster that was cleaned and created again), the kept events are dropped.

import { event, WINDOW } from "./model.js";

const MAX_EVENTS = 3000;

export class History {
  /** `fetchAfter(n)` promises the events with numbers above n. */
  constructor(fetchAfter) {
    this.fetchAfter = fetchAfter;
    this.events = [];
    this.samples = [];
    this.now = Date.now();
    this.fetching = false;
  }

  /** Add an answer. Returns whether events are missing, which are then fetched. */
  add(answer) {
    const fresh = answer.events ?? [];
    const newest = fresh.at(-1)?.number ?? 0;
    if (newest < this.last) this.events = [];
    const joins = !fresh.length || fresh[0].number <= this.last + 1;
    if (joins) this.join(fresh);
    const { at = [], requests_per_s: rates = [], errors_per_s: errors = [], injected_per_s: injected = [] } = answer.history ?? {};
    this.samples = at.map((time, index) => ({ time: time * 1000, rate: rates[index], errors: errors[index] === null ? null : Math.max(0, errors[index] - (injected[index] ?? 0)), injected: injected[index] ?? 0 }));
    this.now = Math.max(this.samples.at(-1)?.time ?? 0, this.events.at(-1)?.time ?? 0) || Date.now();
    if (!joins && !this.fetching) this.fetchMissing();
    return !joins;
  }

  get last() {
    return this.events.at(-1)?.n ?? 0;
  }

  join(records) {
    const known = this.last;
    this.events.push(...records.filter((record) => record.number > known).map(event));
    const oldest = (this.events.at(-1)?.time ?? 0) - 2 * WINDOW;
    if (this.events.length > MAX_EVENTS) this.events = this.events.filter((each) => each.time > oldest).slice(-MAX_EVENTS);
  }

  async fetchMissing() {
    this.fetching = true;
    try {
      this.join((await this.fetchAfter(this.last)).events);
    } catch {
      // The next answer has the gap too, and fetches again.
    } finally {
      this.fetching = false;
    }
  }
}
