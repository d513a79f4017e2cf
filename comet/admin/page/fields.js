// The fields of the page's dialogs, and reading them.

import { el } from "./dom.js";

export function number(name, label, value, { unit = "", ...limits } = {}) {
  const input = el("input", { type: "number", name, id: `f-${name}`, value, ...limits });
  return el("p", { class: "field" }, el("label", { for: `f-${name}` }, label), input, el("span", { class: "quiet" }, unit));
}

export function line(name, label, value, { unit = "", required = false } = {}) {
  return el("p", { class: "field" }, el("label", { for: `f-${name}` }, label), el("input", { type: "text", name, id: `f-${name}`, value, required }), el("span", { class: "quiet" }, unit));
}

export function choice(name, label, options, chosen) {
  const list = el("select", { name, id: `f-${name}` }, ...options.map(([value, words]) => el("option", { value, selected: value === chosen }, words)));
  return el("p", { class: "field" }, el("label", { for: `f-${name}` }, label), list);
}

export function check(name, label, checked = false, disabled = false) {
  return el("label", { class: "check" }, el("input", { type: "checkbox", name, checked: checked && !disabled, disabled }), ` ${label}`);
}

export function names(replicas) {
  return replicas.map((each) => [each.name, `${each.name} (${each.kind})`]);
}

/** Access to the values of the fields below `root`, by name. */
export function reader(root) {
  const field = (name) => root.querySelector(`[name="${name}"]`);
  return {
    value: (name) => field(name).value.trim(),
    checked: (name) => field(name).checked,
  };
}
