// One recovery as a bar of its steps: it ends where the replica is ready, and a tick shows the first answer to a client.
//
// A wait that the restart policy asked for (backoff) is a segment of its own, which no median counts. The bars share a scale that the
// usual recoveries fill: of one that takes much longer the longest step is cut, with a mark at the cut, so that it does not flatten the rest.

import { el, keyed, set } from "./dom.js";
import { ms } from "./format.js";

const ROOM = 2; // Times the median of the slowest group that the scale has room for.
const LEAST_CUT = 0.06; // Share of the scale that a cut step keeps.
const EDGE = 100; // Percent of the bar's width.

export const WORDS = {
  noticed: "noticed",
  backoff: "waited (backoff, not in the median)",
  decided: "decided to restart",
  started: "started",
  listening: "listening",
  ready: "ready",
  "first answer": "first answer",
};

/** The scale (ms) of these groups of recoveries: up to the slowest one, but no further than a multiple of the slowest median. */
export function fullScale(groups) {
  const known = groups.filter((each) => each.length);
  const slowest = Math.max(0, ...known.flat().map(reach));
  const usual = ROOM * Math.max(0, ...known.map((each) => median(each.map((one) => one.own))));
  return Math.max(1, Math.min(slowest, usual));
}

/** The steps up to ready with the length that each is drawn with, so that all fit into `most` ms. */
export function fitted(recovery, most) {
  const pieces = recovery.steps.filter((step) => step.name !== "first answer").map((step) => ({ name: step.name, took: step.to - step.from, long: step.to - step.from, cut: false }));
  const excess = () => pieces.reduce((sum, each) => sum + each.long, 0) - most;
  for (const each of [...pieces].sort((one, other) => other.long - one.long)) {
    if (excess() <= most * 0.001) break;
    each.long = Math.max(Math.min(each.long, most * LEAST_CUT), each.long - excess());
    each.cut = true;
  }
  return pieces;
}

export function dressBar(bar, recovery, most) {
  const steps = fitted(recovery, most);
  const pieces = [...steps, ...firstAnswer(recovery, most - steps.reduce((sum, each) => sum + each.long, 0))];
  keyed(bar, pieces, (piece) => piece.name, () => el("i", {}), (element, piece) => {
    element.style[piece.tick ? "marginLeft" : "width"] = `${((piece.long / most) * EDGE).toFixed(2)}%`;
    const after = `${WORDS[piece.name] ?? piece.name} after ${ms(piece.took)}`;
    set(element, { class: piece.tick ? "tick" : `step ${slug(piece.name)}${piece.cut ? " cut" : ""}`, title: piece.cut ? `${after}, drawn shorter` : after });
  });
}

/** The first answer as a tick, no further than the bar's end. */
function firstAnswer(recovery, room) {
  const answer = answerOf(recovery);
  return answer ? [{ name: answer.name, took: answer.to - answer.from, long: Math.min(room, answer.to - answer.from), tick: true }] : [];
}

/** The step of the first answer, unless the replica only waited for a request. */
function answerOf(recovery) {
  return recovery.steps.find((step) => step.name === "first answer" && !step.waited);
}

/** Up to where a recovery is drawn at true scale. */
const reach = (recovery) => answerOf(recovery)?.to ?? recovery.total;

export function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

export const slug = (name) => name.replaceAll(" ", "-");
