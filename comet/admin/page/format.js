// Figures as people read them: three significant digits, a space, the unit. What is unknown is a dash.
//
// Trailing zeros stay, so that a figure that changes keeps its width. The command line has the same rules (comet/common/figures.py).

export const NONE = "–";
const LEAST = 0.001; // What is smaller has no digits left.

/** 0.512, 1.92, 14.3, 447, 1,240; from 1,000 on every digit of the whole number. */
export function figure(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(Number(value.toPrecision(3)));
  if (size === 0) return "0";
  if (size < LEAST) return `<${LEAST}`;
  const decimals = Math.min(3, Math.max(0, 2 - Math.floor(Math.log10(size))));
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/** Requests per second. */
export function rate(value) {
  return figure(value);
}

/** Milliseconds; from a second on, seconds. */
export function ms(value) {
  if (value === null || value === undefined) return NONE;
  return Number(value.toPrecision(3)) < 1000 ? `${figure(value)} ms` : `${figure(value / 1000)} s`;
}

export function percent(value) {
  return value === null || value === undefined ? NONE : `${figure(value)} %`;
}

export function count(value) {
  return value === null || value === undefined ? NONE : Math.round(value).toLocaleString("en");
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB"];
  let scaled = value;
  let unit = 0;
  while (scaled >= 1024 && unit < units.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return `${unit ? figure(scaled) : count(scaled)} ${units[unit]}`;
}

/** Seconds as the two largest units: 12 s, 3 m 05 s, 2 h 10 m, 4 d 03 h. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const whole = Math.max(0, Math.floor(seconds));
  const pad = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${pad(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} m`;
  return `${Math.floor(whole / 86400)} d ${pad(Math.floor((whole % 86400) / 3600))} h`;
}

/** The time of day, as the reader's clock shows it. */
export function clock(milliseconds) {
  const date = new Date(milliseconds);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}

export function exit(last) {
  if (!last) return NONE;
  const reason = last.signal ?? (last.code === null || last.code === undefined ? "unknown" : `exit ${last.code}`);
  return last.oom ? `${reason} (out of memory)` : reason;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
