// How to begin: a command to copy, requests that the page's own server sends, and a demonstration of a minute.

import { byId, text } from "./dom.js";
import { figure, span } from "./format.js";

const RATE = 20;
const SECONDS = 300;
const COPIED_MS = 2000;

export class Begin {
  /** `order(what, bodies, words)` sends a command. */
  constructor(order) {
    this.curl = byId("curl");
    this.state = byId("begin-state");
    this.send = byId("send");
    this.copy = byId("copy");
    this.send.addEventListener("click", () => (this.load ? order("load", [{ rate: 0 }], "Requests stopped") : order("load", [{ rate: RATE, for: SECONDS }], `Sending ${RATE} requests/s`)));
    this.copy.addEventListener("click", () => this.copyCommand());
  }

  update(model) {
    this.load = model.load;
    const { scheme = "http", host = "127.0.0.1", path = "/" } = model.front ?? {};
    // A certificate made for development is known to nobody, and hardly any is for the address of this machine.
    const command = scheme === "https" ? "curl -k" : "curl";
    const port = model.lbs[0]?.port;
    text(this.curl, port ? `${command} ${scheme}://${host.includes(":") ? `[${host}]` : host}:${port}${path}` : "no load balancer runs");
    this.copy.disabled = !port;
    this.send.disabled = !model.writable || !port;
    text(this.send, this.load ? "Stop sending" : `Send ${RATE} requests/s`);
    text(this.state, this.words(model));
  }

  words({ total, load }) {
    if (load?.kind === "demo") return `Demo: ${load.name}. ${span(load.left_s)} left; it sends requests, kills and breaks by itself.`;
    if (load) return `This page’s server sends ${figure(load.rate)} requests/s, ${span(load.left_s)} left.`;
    const hint = "The demo sends requests, kills a load balancer and a worker, and lets a worker fail.";
    return total.requests ? hint : `No request has come yet. ${hint}`;
  }

  async copyCommand() {
    try {
      await navigator.clipboard.writeText(this.curl.textContent);
      text(this.copy, "Copied");
    } catch {
      // Without the right to the clipboard the command is selected, to be copied by hand.
      getSelection().selectAllChildren(this.curl);
      text(this.copy, "Selected");
    }
    setTimeout(() => text(this.copy, "Copy"), COPIED_MS);
  }
}
