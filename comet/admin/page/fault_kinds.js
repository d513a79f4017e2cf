// The kinds of faults, in words: what the dialog offers and the list of active faults names. The server declares them.

import { byId } from "./dom.js";

const DECLARED = JSON.parse(byId("fault-kinds").textContent);

/**
 * Each kind's name, words, unit, and the limits of its field; `choices` or `switch` where it is no number. Those of a `network` are for
 * containers, and need a time.
 */
export const KINDS = DECLARED.kinds;
/** The same of the front; `text` where the value is text. */
export const FRONT_KINDS = DECLARED.front;

const UNITS = Object.fromEntries(Object.entries(DECLARED.units).map(([name, unit]) => [name, ` ${unit}`]));

export function setting(name, value) {
  if (value === true) return name;
  return `${name} ${typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 6 }) : value}${UNITS[name] ?? ""}`;
}

export function settings(given) {
  return Object.entries(given).map(([name, value]) => setting(name, value)).join(", ");
}
