// Changes the cluster from the page: each command has a button and a form in a dialog, which describes the effect first.
//
// A dialog stays open until the answer arrives, so that a wrong value can be corrected; what takes longer continues as a notice.

import { BUTTONS, dialogOf, outcome } from "./command_forms.js";
import { byId, el, set, text } from "./dom.js";
import { faultFields } from "./fault_form.js";
import { check, reader } from "./fields.js";
import { command } from "./live.js";

const DIALOG_TIMEOUT = 700;
const ONE_KIND = "This cluster has no ready process and container: set “runtime: mixed” in config.yaml.";
/** What the page adds to the dialogs of some commands: in `faults` its own fields, in `kill` the comparison of both kinds. */
const ADDED = {
  faults: faultFields,
  kill: (model, name, { fields, both }) => ({
    fields: [...fields, el("p", {}, check("both", "also kill one of the other kind, to compare", both, !comparable(model))), comparable(model) ? "" : el("p", { class: "quiet" }, ONE_KIND)],
    also: (form, body, now) => (form.checked("both") ? { ...body, name: other(now, body.name) } : null),
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
    byId("tools").replaceChildren(...BUTTONS.map((form) => el("button", { type: "button", "data-do": form.name, class: form.risky ? "risky" : null, disabled: true }, `${form.title}…`)));
    this.buttons = document.querySelectorAll("[data-do]");
    for (const button of this.buttons) button.addEventListener("click", () => this.ask(button.dataset.do, null, "both" in button.dataset));
  }

  /** Set the model that commands refer to. Without one, or without the right to write, all buttons are disabled. */
  setModel(model) {
    this.model = model;
    for (const button of this.buttons) {
      const refused = "both" in button.dataset && !comparable(model);
      button.disabled = !model.writable || refused;
      set(button, { title: refused ? ONE_KIND : null });
    }
    if (!model.writable && this.dialog.open) this.dialog.close();
  }

  /** Open a command's dialog, for this replica; `both`: to kill one of each kind. */
  ask(what, name = null, both = false) {
    const form = dialogOf(what, this.model, name);
    this.form = { ...form, ...ADDED[what]?.(this.model, name, { ...form, both }) };
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
    let bodies;
    try {
      const body = form.body(values);
      bodies = [body, form.also?.(values, body, this.model)].filter(Boolean);
    } catch (error) {
      return this.refuse(error.message);
    }
    const what = form.command(values);
    byId("ask-yes").disabled = true;
    const note = notice(`${form.title}…`, "wait");
    const dialog = this.dialog;
    // Once this dialog has closed, another one may be open in its place.
    const close = () => this.form === form && dialog.close();
    const closing = setTimeout(close, DIALOG_TIMEOUT);
    try {
      const result = await Promise.all(bodies.map((each) => command(what, each)));
      close();
      note.change(result.map((each, index) => (each === null ? `${form.title} continues; its outcome will appear under “Events”` : form.outcome?.(bodies[index]) || outcome(what, each, bodies[index]))).join("; "), "good");
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

/** The ready replicas that can be killed. */
const mortal = (model) => model.replicas.filter((each) => each.level === "good" && each.kind !== "upstream");
const comparable = (model) => new Set(mortal(model).map((each) => each.kind)).size > 1;

/** A ready replica of another kind than this one; an Error where there is none. */
function other(model, name) {
  const chosen = model.replicas.find((each) => each.name === name);
  const found = mortal(model).find((each) => each.kind !== chosen.kind);
  if (!found) throw new Error(`No replica of another kind than ${name} is ready.`);
  return found.name;
}
