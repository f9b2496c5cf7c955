// What the bundles say: one block each, a threshold for all, the table of times. Texts go in as text, never as markup.

import { element, percent } from "./parts.js";

const WINDOW = 60; // pictures that the times are the median of

const at = (id) => document.getElementById(id);
export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(1)} ms`;

/** The threshold as a share. */
export const threshold = () => Number(at("threshold").value) / 100;

/** A label as it is shown: "unknown" below the threshold. */
export const named = (result) => (result.confidence >= threshold() ? result.best : "unknown");

/** The blocks of the answers, one for each bundle. */
export class Answers {
  #blocks;
  #results = null;

  constructor(models) {
    this.#blocks = models.map((model, i) => block(model, i, models.length > 1));
    at("answers").replaceChildren(...this.#blocks.map(({ whole }) => whole));
    const [{ unknown_below: unknown }] = models;
    // A bundle's own threshold may lie between two steps of the slider: the step then is made to fit it.
    if (unknown !== null) {
      at("threshold").step = "any";
      at("threshold").value = String(100 * unknown);
    }
    at("meaning").textContent = meaning(models);
    this.#showLimit();
    at("threshold").addEventListener("input", () => {
      this.#showLimit();
      if (this.#results) this.show(this.#results);
    });
  }

  /** Show what each bundle says of one picture. */
  show(results) {
    this.#results = results;
    results.forEach((result, i) => showResult(this.#blocks[i], result));
    at("agreement").hidden = results.length < 2;
    if (results.length < 2) return;
    const [one, other] = results.map(named);
    at("agreement").textContent = one === other ? `Both say ${one}.` : `They differ: ${one}, ${other}.`;
  }

  /** Nothing is claimed any more. */
  clear() {
    this.#results = null;
    for (const { whole, state, label, confidence, top } of this.#blocks) {
      whole.dataset.state = "empty";
      state.textContent = "Result";
      label.textContent = "Nothing yet";
      confidence.textContent = "";
      top.replaceChildren();
    }
    at("agreement").hidden = true;
    at("announce").textContent = "";
  }

  #showLimit() {
    at("limit").textContent = `${Number(Number(at("threshold").value).toFixed(1))} %`;
  }
}

function meaning(models) {
  const given = models.map(({ unknown_below: share }) => share).filter((share) => share !== null);
  const own = given.length ? ` The bundle${models.length > 1 ? "s'" : "'s"} own: ${given.map(percent).join(", ")}.` : "";
  return `Below it the answer is “unknown”.${own}`;
}

function block(model, i, titled) {
  const whole = element("div", "", "result");
  const kicker = element("p", "", "kicker");
  const state = element("span", "Result");
  if (titled) kicker.append(element("bdi", model.name));
  kicker.append(state);
  const line = element("p", "", "label");
  const label = element("bdi", "Nothing yet");
  line.append(label);
  const confidence = element("p", "", "confidence");
  const top = element("ol", "", "top");
  top.setAttribute("aria-label", titled ? `Most likely labels, ${model.name}` : "Most likely labels");
  whole.dataset.state = "empty";
  Object.entries({ result: whole, label, confidence, top }).forEach(([name, part]) => (part.id = `${name}-${i}`));
  whole.append(kicker, line, confidence, top);
  return { whole, state, label, confidence, top };
}

function showResult({ whole, state, label, confidence, top }, result) {
  const sure = result.confidence >= threshold();
  whole.dataset.state = sure ? "sure" : "unsure";
  state.textContent = sure ? "Result" : "Not sure enough";
  label.textContent = named(result);
  confidence.textContent = sure ? percent(result.confidence) : `best guess below, ${percent(result.confidence)}`;
  while (top.children.length < result.top.length) {
    const item = element("li");
    item.append(element("bdi"), element("span"), element("i"));
    top.append(item);
  }
  while (top.children.length > result.top.length) top.lastChild.remove();
  result.top.forEach((one, k) => {
    const [name, share, bar] = top.children[k].children;
    name.textContent = one.label;
    share.textContent = percent(one.confidence);
    bar.style.setProperty("--share", one.confidence);
  });
}

/** The table of stages: a row for each, a column for each bundle, medians of the last pictures. */
export class Times {
  #models;
  #lists = new Map(); // stage -> one list per bundle, or a single list for stages that all share

  constructor(models) {
    this.#models = models;
    this.clear();
  }

  clear() {
    this.#lists.clear();
    at("stage-rows").replaceChildren();
    at("stage-head").replaceChildren();
    for (const id of ["whole-ms", "fps", "dropped"]) at(id).textContent = "–";
  }

  /**
   * Add one picture: `stages` are [name, ms] for all, or [name, [ms of each bundle]], null for a stage that did not run;
   * `whole` is the sum that counts.
   */
  add(stages, whole) {
    for (const [stage, ms] of [...stages, ["all", whole]]) {
      const values = [ms].flat();
      if (!this.#lists.has(stage)) this.#lists.set(stage, values.map(() => []));
      values.forEach((value, i) => {
        const list = this.#lists.get(stage)[i];
        if (value === undefined || list === undefined) return;
        list.push(value);
        if (list.length > WINDOW) list.shift();
      });
    }
    this.#show();
  }

  #show() {
    const all = this.#lists.get("all")[0];
    at("whole-ms").textContent = milliseconds(median(all));
    const head = element("tr");
    const columns = this.#models.length > 1 ? this.#models.map(({ name }) => name) : ["Milliseconds"];
    head.append(element("th", "Stage"), ...columns.map((name) => element("th", name)), element("th", "Share"));
    at("stage-head").replaceChildren(head);
    const shown = [...this.#lists].filter(([stage, lists]) => stage !== "all" && lists.flat().some(ran));
    at("stage-rows").replaceChildren(...shown.map(([stage, lists]) => row(stage, lists, sum(all), columns.length)));
  }
}

/** What stands behind the name of a stage that runs in a thread of its own and takes no part of the whole. */
export const ASIDE = " (beside the rest)";

const ran = (ms) => ms !== null;
const sum = (list) => list.reduce((total, ms) => total + (ms ?? 0), 0);

function row(stage, lists, all, columns) {
  const line = element("tr");
  const cells = lists.map((list) => element("td", medianOf(list)));
  if (lists.length < columns) cells[0].colSpan = columns;
  const share = element("td");
  const bar = element("i");
  bar.style.setProperty("--share", all > 0 ? Math.min(1, sum(lists.flat()) / all) : 0);
  if (!stage.endsWith(ASIDE)) share.append(bar);
  const name = element("th", stage);
  name.scope = "row";
  line.append(name, ...cells, share);
  return line;
}

function medianOf(list) {
  const times = list.filter(ran);
  if (!times.length) return "–";
  return milliseconds(median(times)) + (times.length < list.length ? ` in ${times.length} of ${list.length}` : "");
}

function median(list) {
  const sorted = [...list].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
