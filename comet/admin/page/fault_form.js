// The fields of the dialog that changes faults: every kind, with the values that are effective now. What is left as it is, is not sent.

import { el, set, text } from "./dom.js";
import { FRONT_KINDS, KINDS } from "./fault_kinds.js";
import { check, choice, line, names, number } from "./fields.js";
import { FRONT, front } from "./faults.js";

const SECONDS = 30;

export function faultFields(model, name) {
  const known = [...model.workers.map((each) => each.name), FRONT];
  const target = choice("target", "Where", [["all", "all workers"], ...names(model.workers), [FRONT, "the front, where clients connect"]], known.includes(name) ? name : "all");
  const box = el("div", { class: "kinds" });
  const to = () => target.querySelector("select").value;
  let kinds = [];
  const show = () => {
    const listed = to() === FRONT ? FRONT_KINDS : KINDS;
    const targets = chosen(model, to());
    kinds = listed.map((kind) => ({ kind, made: field(kind, impossible(kind, model, targets)) }));
    kinds.forEach(({ kind, made }) => present(made, kind, targets));
    const [own, ofNetwork] = [false, true].map((network) => kinds.filter((each) => Boolean(each.kind.network) === network).map((each) => each.made));
    const head = ofNetwork.length ? [el("p", { class: "quiet" }, "The network of containers (needs a time):")] : [];
    box.replaceChildren(...own, ...head, ...ofNetwork);
  };
  target.querySelector("select").addEventListener("change", show);
  show();
  return {
    fields: [
      target,
      box,
      number("for", "For", SECONDS, { min: 0.001, step: "any", unit: "seconds; empty: until cleared" }),
      number("count", "At most", "", { min: 1, max: 1e6, step: 1, unit: "requests of each worker, or of the front; empty: any" }),
      el("p", {}, check("clear", "clear: return to config.yaml first")),
    ],
    body: (form) => body(form, kinds),
    outcome: (sent) => (sent.clear ? `Faults of ${sent.target} cleared` : ""),
  };
}

/** Why these targets cannot have a kind of faults; empty where they can. */
function impossible(kind, model, targets) {
  if (kind.workerOnly && model.config["fault-point"] === "lb") return "it acts within the worker, and fault-point is lb";
  if (kind.network && targets.some((each) => each.kind !== "container")) return "only a container has a network of its own";
  return "";
}

function field(kind, reason) {
  const made = control(kind);
  if (reason) set(input(made), { disabled: true, title: reason });
  return made;
}

function control(kind) {
  if (kind.text) return line(kind.name, kind.words, "", { unit: kind.more });
  if (kind.switch) return choice(kind.name, kind.words, [["", "differs"], ["false", "no"], ["true", "yes"]], "");
  if (kind.choices) return choice(kind.name, kind.words, [["", "differs"], ...kind.choices.map((each) => [each, each])], "");
  return number(kind.name, kind.words, "", { min: 0, step: "any", unit: [kind.unit, kind.more].filter(Boolean).join(" "), ...kind.limits });
}

const input = (made) => made.querySelector("input, select");

function chosen(model, target) {
  return target === FRONT ? [front(model)] : model.workers.filter((each) => target === "all" || each.name === target);
}

/** Show the value that these targets have now; empty where they differ. */
function present(made, kind, targets) {
  const values = new Set(targets.map((each) => String(each.faults?.[kind.name] ?? kind.neutral ?? (each.faults ? 0 : ""))));
  const shown = values.size === 1 ? [...values][0] : "";
  const element = input(made);
  element.value = shown;
  element.shown = shown;
  if (element.tagName === "INPUT") set(element, { placeholder: shown === "" && values.size > 1 ? "differs" : null });
  else if (element.options[0].value === "") text(element.options[0], values.size > 1 ? "differs" : "");
}

function sentValue(kind, value) {
  if (kind.switch) return value === "true";
  return kind.text || kind.choices ? value : Number(value);
}

/** The request; an Error where it would change nothing. */
function body(form, kinds) {
  const changed = kinds.map(({ kind, made }) => [kind, input(made).value.trim(), input(made).shown]).filter(([, value, shown]) => value !== "" && value !== shown);
  const given = Object.fromEntries(changed.map(([kind, value]) => [kind.name, sentValue(kind, value)]));
  const timed = changed.filter(([kind]) => kind.network && given[kind.name]).map(([kind]) => kind.words);
  if (timed.length > 0 && (form.value("for") === "" || form.value("count") !== "")) throw new Error(`${timed.join(", ")}: give a time, and no count.`);
  const target = form.value("target");
  const clear = form.checked("clear");
  const some = Object.keys(given).length > 0;
  if (!some && !clear) throw new Error("Nothing would change: change a value, or choose “clear”.");
  const limits = some ? ["for", "count"].filter((each) => form.value(each) !== "").map((each) => [each, Number(form.value(each))]) : [];
  return { target, ...given, ...Object.fromEntries(limits), ...(clear ? { clear } : {}) };
}
