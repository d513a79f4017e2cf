// Changing the cluster from the page: each command is one form in a dialog that says what it will do before it does it.
//
// A dialog stays until the answer is there, for a wrong value is mended where it was typed; what takes longer goes on as a notice.

import { byId, el, text } from "./dom.js";
import { command } from "./live.js";

const LONG = 700;
const SIGNALS = { KILL: "KILL, as a crash", TERM: "TERM, a polite end", STOP: "STOP, so that it hangs", CONT: "CONT, wakes it from STOP", SEGV: "SEGV, a fault of its own" };
const FAULTS = [
  ["avg-delay", "Mean delay", "ms"],
  ["failure", "Failures", "% answered 500"],
  ["hang", "Hang", "% never answered"],
  ["reset", "Reset", "% cut off"],
];

/** What each command asks for: fields of its form, what it sends, and how its success is told. */
const FORMS = {
  scale: (model) => ({
    title: "Scale",
    why: "New replicas are ready before it counts as done; those too many finish their requests first.",
    fields: [number("worker", "Workers", model.workers.length, { min: 0, max: 200 }), number("pool", "Load balancers", model.lbs.length, { min: 1, max: 64 })],
    yes: "Scale",
    body: (form) => ({ worker: form.valueAsNumber("worker"), pool: form.valueAsNumber("pool") }),
    done: (told) => `Scaled to ${told.worker} workers and ${told.pool} load balancers`,
  }),
  restart: (model, name) => ({
    title: "Restart",
    why: "Replacements are ready before what they replace ends: no request is lost.",
    fields: [choice("target", "What", [["all", "everything"], ["lb", "all load balancers"], ["worker", "all workers"], ...names(model.replicas)], name ?? "all")],
    yes: "Restart",
    body: (form) => ({ target: form.value("target") }),
    done: (told, body) => `Restarted ${body.target}`,
  }),
  race: (model) => ({ ...FORMS.kill(model, model.lbs[0]?.name, true), command: "kill" }),
  kill: (model, name, both = false) => ({
    title: both ? "Kill one of each" : "Kill, as a crash would",
    why: "It dies at once, with the requests it is working on. The supervisor brings it back: watch how long that takes.",
    fields: [
      choice("name", "Replica", names(model.replicas.filter((each) => each.state !== "backoff")), name ?? model.replicas[0]?.name),
      choice("signal", "Signal", Object.entries(SIGNALS), "KILL"),
      el("p", {}, check("both", "and one of the other kind with it, to compare", both)),
    ],
    yes: "Kill it",
    risky: true,
    body: (form) => ({ name: form.value("name"), signal: form.value("signal") }),
    also: (form, body) => (form.checked("both") ? { ...body, name: other(model, body.name) } : null),
    done: (told, body) => `SIG${body.signal} sent to ${body.name}`,
  }),
  faults: (model, name) => ({
    title: "Faults of living workers",
    why: "What is left empty keeps its value. More kinds of faults: “supervisor.py faults --help”.",
    fields: [
      choice("target", "Workers", [["all", "all workers"], ...names(model.workers)], name && model.workers.some((each) => each.name === name) ? name : "all"),
      ...FAULTS.map(([key, label, unit]) => number(key, label, "", { min: 0, max: unit.startsWith("%") ? 100 : 600000, step: "any", unit })),
      number("for", "For", "30", { min: 1, step: "any", unit: "seconds; empty: until cleared" }),
      el("p", {}, check("clear", "clear: back to what config.yaml says")),
    ],
    yes: "Apply",
    body: (form) => faultsBody(form),
    done: (told, body) => (body.clear ? `Faults of ${body.target} cleared` : `Faults of ${body.target} changed`),
  }),
  reload: () => ({
    title: "Reload config.yaml",
    why: "What can change live does; what needs a restart is replaced one by one. A bad file is refused and changes nothing.",
    fields: [],
    yes: "Reload",
    body: () => ({}),
    done: (told) => (told.changed?.length ? `Reloaded: ${told.changed.join(", ")} changed` : "Reloaded: nothing had changed"),
  }),
  stop: (model) => ({
    title: "Stop the cluster?",
    why: `All ${model.replicas.length} replicas finish their requests and are removed, then the supervisor ends, and with it this page.`,
    fields: [],
    yes: "Stop everything",
    risky: true,
    body: () => ({}),
    done: () => "The cluster is stopping",
  }),
};

export class Controls {
  constructor(soon) {
    this.soon = soon;
    this.dialog = byId("ask");
    this.wrong = byId("ask-wrong");
    byId("ask-no").addEventListener("click", () => this.dialog.close());
    this.dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.buttons = document.querySelectorAll("[data-do]");
    for (const button of this.buttons) button.addEventListener("click", () => this.ask(button.dataset.do));
  }

  /** What commands are about: before the first word of the supervisor there is nothing to command. */
  know(model) {
    this.model = model;
    for (const button of this.buttons) button.disabled = false;
  }

  ask(what, name = null) {
    this.what = what;
    this.form = FORMS[what](this.model, name);
    text(byId("ask-title"), this.form.title);
    text(byId("ask-why"), this.form.why);
    byId("ask-fields").replaceChildren(...this.form.fields);
    const yes = byId("ask-yes");
    text(yes, this.form.yes);
    yes.disabled = false;
    yes.classList.toggle("risky", Boolean(this.form.risky));
    this.wrong.hidden = true;
    this.dialog.showModal();
    if (this.form.risky) byId("ask-no").focus();
  }

  async send() {
    const { what, form } = this;
    const values = reader(byId("ask-fields"));
    const body = form.body(values);
    const bodies = [body, form.also?.(values, body)].filter(Boolean);
    byId("ask-yes").disabled = true;
    const note = notice(`${form.title.replace("?", "")}…`, "wait");
    const mine = this.dialog;
    const patience = setTimeout(() => mine.close(), LONG);
    try {
      const told = await Promise.all(bodies.map((each) => command(form.command ?? what, each)));
      mine.close();
      note.change(told.map((each, index) => (each === null ? `${form.title} goes on; its end will stand under “What happened”` : form.done(each, bodies[index]))).join("; "), "good");
    } catch (error) {
      if (mine.open && this.form === form) {
        text(this.wrong, error.message);
        this.wrong.hidden = false;
        byId("ask-yes").disabled = false;
        note.remove();
      } else {
        note.change(error.message, "bad");
      }
    } finally {
      clearTimeout(patience);
      this.soon();
    }
  }
}

/** A line at the top of the page: what goes on disappears when it is done, what went wrong stays until it is read. */
export function notice(words, level) {
  const line = el("p", { class: "notice", "data-level": level }, el("span", {}, words));
  byId("notices").append(line);
  const close = el("button", { type: "button", class: "plain", "aria-label": "Dismiss" }, "✕");
  close.addEventListener("click", () => line.remove());
  line.append(close);
  return {
    change: (said, how) => {
      line.dataset.level = how;
      text(line.firstElementChild, said);
      if (how === "good") setTimeout(() => line.remove(), 6000);
    },
    remove: () => line.remove(),
  };
}

function faultsBody(form) {
  const given = Object.fromEntries(FAULTS.map(([key]) => [key, form.value(key)]).filter(([, value]) => value !== "").map(([key, value]) => [key, Number(value)]));
  const limit = form.value("for");
  const limited = Object.keys(given).length && limit !== "" ? { for: Number(limit) } : {};
  return { target: form.value("target"), ...given, ...limited, ...(form.checked("clear") ? { clear: true } : {}) };
}

function other(model, name) {
  const chosen = model.replicas.find((each) => each.name === name);
  return (model.replicas.find((each) => each.kind !== chosen?.kind && each.level === "good") ?? model.replicas.find((each) => each.role !== chosen?.role) ?? chosen).name;
}

function reader(root) {
  const field = (name) => root.querySelector(`[name="${name}"]`);
  return {
    value: (name) => field(name).value.trim(),
    valueAsNumber: (name) => field(name).valueAsNumber,
    checked: (name) => field(name).checked,
  };
}

function number(name, label, value, { unit = "", ...limits } = {}) {
  const input = el("input", { type: "number", name, id: `f-${name}`, value, required: value !== "" && name !== "for", ...limits });
  return el("p", { class: "field" }, el("label", { for: `f-${name}` }, label), input, el("span", { class: "quiet" }, unit));
}

function choice(name, label, options, chosen) {
  const list = el("select", { name, id: `f-${name}` }, ...options.map(([value, words]) => el("option", { value, selected: value === chosen }, words)));
  return el("p", { class: "field" }, el("label", { for: `f-${name}` }, label), list);
}

function check(name, label, checked = false) {
  return el("label", { class: "check" }, el("input", { type: "checkbox", name, checked }), ` ${label}`);
}

function names(replicas) {
  return replicas.map((each) => [each.name, `${each.name} (${each.kind})`]);
}
