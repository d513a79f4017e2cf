// Figures as people read them. What is unknown is a dash.

export const NONE = "–";

/** Requests per second: one decimal below ten, none above. */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  if (value > 0 && value < 0.05) return "<0.1";
  return value < 9.95 ? trim(value.toFixed(1)) : Math.round(value).toLocaleString("en");
}

export function ms(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 9.95) return `${trim(value.toFixed(1))} ms`;
  return value < 9950 ? `${Math.round(value).toLocaleString("en")} ms` : `${trim((value / 1000).toFixed(1))} s`;
}

export function percent(value) {
  if (value === null || value === undefined) return NONE;
  if (value > 0 && value < 0.05) return "<0.1 %";
  return `${value < 9.95 ? trim(value.toFixed(1)) : Math.round(value)} %`;
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
  return `${scaled < 9.95 && unit ? trim(scaled.toFixed(1)) : Math.round(scaled)} ${units[unit]}`;
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
  const told = last.signal ?? (last.code === null || last.code === undefined ? "unknown" : `exit ${last.code}`);
  return last.oom ? `${told} (out of memory)` : told;
}

export function plural(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

function trim(decimal) {
  return decimal.endsWith(".0") ? decimal.slice(0, -2) : decimal;
}
