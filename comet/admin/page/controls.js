// Changes the cluster from the page: each command has a form in a dialog, which describes the effect first.
//
// A dialog stays open until the answer arrives, so that a wrong value can be corrected; what takes longer continues as a notice.

import { byId, el, text } from "./dom.js";
import { faultForm } from "./fault_form.js";
import { check, choice, names, number, reader } from "./fields.js";
import { plural } from "./format.js";
import { command } from "./live.js";

const DIALOG_TIMEOUT = 700;
const SIGNALS = { KILL: "KILL, as a crash", TERM: "TERM, a request to end", STOP: "STOP, so that it hangs", CONT: "CONT, to resume after STOP", SEGV: "SEGV, as a memory fault" };
/** Each command's form: its fields, the request body, and the message on success. */
const FORMS = {
  scale: (model) => ({
    title: "Scale",
    why: "It is done when new replicas are ready. Surplus replicas finish their requests first.",
    fields: [number("worker", "Workers", model.workers.length, { min: 0, max: 200 }), number("pool", "Load balancers", model.lbs.length, { min: 1, max: 64 })],
    yes: "Scale",
    body: (form) => ({ worker: form.valueAsNumber("worker"), pool: form.valueAsNumber("pool") }),
    done: (result) => `Scaled to ${plural(result.worker, "worker")} and ${plural(result.pool, "load balancer")}`,
  }),
  restart: (model, name) => ({
    title: "Restart",
    why: "Each replacement is ready before the old replica ends: no request is lost.",
    fields: [choice("target", "What", [["all", "everything"], ["lb", "all load balancers"], ["worker", "all workers"], ...names(model.replicas)], name ?? "all")],
    yes: "Restart",
    body: (form) => ({ target: form.value("target") }),
    done: (result, body) => `Restarted ${body.target}`,
  }),
  race: (model) => ({ ...FORMS.kill(model, model.lbs[0]?.name, true), command: "kill" }),
  kill: (model, name, both = false) => ({
    title: both ? "Kill one of each" : "Kill, as a crash would",
    why: "It dies at once, with its requests in flight. The supervisor restarts it: watch how long that takes.",
    fields: [
      choice("name", "Replica", names(model.replicas.filter((each) => each.state !== "backoff")), name ?? model.replicas[0]?.name),
      choice("signal", "Signal", Object.entries(SIGNALS), "KILL"),
      el("p", {}, check("both", "also kill one of the other kind, to compare", both)),
    ],
    yes: "Kill it",
    risky: true,
    body: (form) => ({ name: form.value("name"), signal: form.value("signal") }),
    also: (form, body) => (form.checked("both") ? { ...body, name: other(model, body.name) } : null),
    done: (result, body) => `SIG${body.signal} sent to ${body.name}`,
  }),
  faults: faultForm,
  demo: (model) => ({
    title: "Demo",
    why: `For a minute this page’s server sends requests. Meanwhile a load balancer and a worker are killed${model.config["worker-image"] ? "" : ", and a worker answers 500"}. It ends by itself; do not use it on a cluster that others use.`,
    fields: [],
    yes: "Start the demo",
    body: () => ({}),
    done: (result) => `The demo runs for ${result.for} s`,
  }),
  drain: (model, name) => ({
    title: "Drain a worker",
    why: "It gets no new requests until it is undrained, and those in flight finish. It keeps running and is checked as before.",
    fields: [choice("name", "Worker", names(model.workers), name ?? model.workers[0]?.name), choice("order", "Order", [["drain", "no new requests"], ["undrain", "requests again"]], model.workers.find((each) => each.name === name)?.drained ? "undrain" : "drain")],
    yes: "Apply",
    command: (form) => form.value("order"),
    body: (form) => ({ name: form.value("name") }),
    done: (result) => (result.drained ? `${result.name} gets no new requests` : `${result.name} gets requests`),
  }),
  pause: (model) => ({
    title: "Pause all requests",
    why: "New requests wait in the load balancers, those in flight finish. Afterwards all go on.",
    fields: [choice("order", "Order", [["pause", "requests wait"], ["resume", "requests go on"]], model.total.paused ? "resume" : "pause"), number("for", "For", "30", { min: 0.001, step: "any", unit: "seconds; empty: until resumed" })],
    yes: "Apply",
    command: (form) => form.value("order"),
    body: (form) => (form.value("order") === "pause" && form.value("for") !== "" ? { for: Number(form.value("for")) } : {}),
    done: (result) => (result.paused ? "Requests wait" : "Requests go on"),
  }),
  reload: () => ({
    title: "Reload config.yaml",
    why: "Changes apply live where possible; other replicas are replaced one by one. An invalid file is refused and changes nothing.",
    fields: [],
    yes: "Reload",
    body: () => ({}),
    done: (result) => (result.changed?.length ? `Reloaded: ${result.changed.join(", ")} changed` : "Reloaded: nothing had changed"),
  }),
  stop: (model) => ({
    title: "Stop the cluster?",
    why: `${model.replicas.length === 1 ? "The replica finishes its" : `All ${model.replicas.length} replicas finish their`} requests and ${model.replicas.length === 1 ? "is" : "are"} removed. Then the supervisor and this page end.`,
    fields: [],
    yes: "Stop everything",
    risky: true,
    body: () => ({}),
    done: () => "The cluster is stopping",
  }),
};

export class Controls {
  constructor(onDone) {
    this.onDone = onDone;
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

  /** Set the model that commands refer to. Without one, or without the right to write, all buttons are disabled. */
  setModel(model) {
    this.model = model;
    for (const button of this.buttons) button.disabled = !model.writable;
    if (!model.writable && this.dialog.open) this.dialog.close();
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
    const { form } = this;
    const values = reader(byId("ask-fields"));
    let body;
    try {
      body = form.body(values);
    } catch (error) {
      return this.refuse(error.message);
    }
    const what = typeof form.command === "function" ? form.command(values) : (form.command ?? this.what);
    const bodies = [body, form.also?.(values, body)].filter(Boolean);
    byId("ask-yes").disabled = true;
    const note = notice(`${form.title.replace("?", "")}…`, "wait");
    const dialog = this.dialog;
    // Once this dialog has closed, another one may be open in its place.
    const close = () => this.form === form && dialog.close();
    const closing = setTimeout(close, DIALOG_TIMEOUT);
    try {
      const result = await Promise.all(bodies.map((each) => command(what, each)));
      close();
      note.change(result.map((each, index) => (each === null ? `${form.title} continues; its outcome will appear under “Events”` : form.done(each, bodies[index]))).join("; "), "good");
    } catch (error) {
      if (dialog.open && this.form === form) {
        this.refuse(error.message);
        note.remove();
      } else {
        note.change(error.message, "bad");
      }
    } finally {
      clearTimeout(closing);
      this.onDone();
    }
    return undefined;
  }

  /** Say in the dialog why nothing was done; what was typed stays. */
  refuse(why) {
    text(this.wrong, why);
    this.wrong.hidden = false;
    byId("ask-yes").disabled = false;
  }

  /** Send commands without a form: one body after the other. */
  async order(what, bodies, words) {
    const note = notice(`${words}…`, "wait");
    try {
      for (const body of bodies) await command(what, body);
      note.change(words, "good");
    } catch (error) {
      note.change(error.message, "bad");
    }
    this.onDone();
  }
}

/** A line in the page's corner, over what is below it: progress disappears when it is done, an error stays until it is dismissed. */
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

function other(model, name) {
  const chosen = model.replicas.find((each) => each.name === name);
  return (model.replicas.find((each) => each.kind !== chosen?.kind && each.level === "good") ?? model.replicas.find((each) => each.role !== chosen?.role) ?? chosen).name;
}
