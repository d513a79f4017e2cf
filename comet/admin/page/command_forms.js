// The dialogs of commands: which there are, their words and fields are declared by the server; this makes elements and requests of them.

import { byId, el } from "./dom.js";
import { check, choice, line, names, number } from "./fields.js";
import { plural } from "./format.js";

const DECLARED = JSON.parse(byId("declared-commands").textContent);
const FORMS = Object.fromEntries(DECLARED.map((form) => [form.name, form]));
const REVERSES = new Set(DECLARED.map((form) => form.reverse));

/** The commands that have a button in the tool bar, in its order. A command that undoes another one is a choice in that one's dialog. */
export const BUTTONS = DECLARED.filter((form) => form.place > 0 && !REVERSES.has(form.name)).sort((one, other) => one.place - other.place);

/** Which replicas a field's choices name. */
const NAMED = {
  replicas: () => true,
  running: (replica) => replica.state !== "backoff",
  workers: (replica) => replica.role === "worker",
};
const namesSome = (form, kinds) => form.fields.some((field) => kinds.includes(field.names));

/** The commands that act on any replica. */
export const FOR_ANY = BUTTONS.filter((form) => namesSome(form, ["replicas", "running"]));

/** The commands that act on this replica, each with the title of what it would do now. */
export function actionsOn(replica) {
  const forms = BUTTONS.filter((form) => FOR_ANY.includes(form) || (replica.role === "worker" && namesSome(form, ["workers"])));
  return forms.map((form) => ({ ...form, title: (replica[form.reversible] ? FORMS[form.reverse] : form).title }));
}

/** A command's dialog: its words, the elements of its fields, and how the command and its body are read from them. */
export function dialogOf(command, model, name) {
  const form = FORMS[command];
  const reverse = FORMS[form.reverse];
  const state = model.replicas.find((each) => each.name === name) ?? model.total;
  const orders = reverse ? [choice("order", "Order", [form, reverse].map((each) => [each.name, each.order]), state[form.reversible] ? reverse.name : form.name)] : [];
  const chosen = (values) => (reverse ? values.value("order") : form.name);
  return {
    ...form,
    fields: [...orders, ...form.fields.map((field) => input(field, model, name))],
    command: chosen,
    body: (values) => bodyOf(FORMS[chosen(values)], values),
  };
}

/** The outcome of a command in words, from what was sent and what came back. */
export function outcome(command, result, sent) {
  const known = { ...result, ...sent };
  const words = (_, field, unit) => (unit ? plural(known[field], unit) : [known[field] ?? []].flat().join(", ") || "nothing");
  return FORMS[command].done.replace(/\{([\w-]+)(?:: ([^}]+))?\}/g, words);
}

function input(field, model, name) {
  if (field.type === "choice") {
    const named = field.names ? names(model.replicas.filter(NAMED[field.names])) : [];
    const isNamed = named.some(([value]) => value === name);
    return choice(field.name, field.label, [...field.choices, ...named], isNamed ? name : field.first);
  }
  if (field.type === "check") return el("p", {}, check(field.name, field.label));
  const first = field.counts ? model[field.counts].length : field.first ?? "";
  const make = field.type === "number" ? number : line;
  return make(field.name, field.label, first, { unit: field.unit, required: field.required, ...field.limits });
}

/** What is left empty is not sent. */
function bodyOf(form, values) {
  const read = (field) => (field.type === "check" ? values.checked(field.name) : values.value(field.name));
  const given = form.fields.map((field) => [field, read(field)]).filter(([, value]) => value !== "");
  return Object.fromEntries(given.map(([field, value]) => [field.name, field.type === "number" ? Number(value) : value]));
}
