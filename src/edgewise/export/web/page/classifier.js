// The worker, as promises.

import { BadPicture } from "./header.js";

export class Classifier {
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #last = 0;
  #broken = "";

  constructor() {
    this.#worker.addEventListener("message", ({ data }) => this.#settle(data));
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.#broken = event.message || "the worker cannot be loaded";
      for (const id of [...this.#waiting.keys()]) this.#settle({ id, error: this.#broken });
    });
  }

  /** Load the runtime and the model. Answers {threads, clockStep}. */
  async start({ model, input }) {
    const half = Math.floor((navigator.hardwareConcurrency ?? 2) / 2);
    const threads = crossOriginIsolated ? Math.max(1, Math.min(4, half)) : 1;
    return { threads, ...(await this.#ask("start", { model, input, threads })) };
  }

  /** Classify a file. Answers {logits, pixels, width, height, ms: {decode, pixels, model}}; throws BadPicture. */
  picture(blob) {
    return this.#ask("picture", { blob });
  }

  /** Classify an ImageBitmap, which is used up. Answers as `picture`. */
  frame(bitmap) {
    return this.#ask("frame", { bitmap }, [bitmap]);
  }

  /** Scale RGB bytes to the pixels the model sees. Answers {pixels}. */
  scale(width, height, source) {
    return this.#ask("scale", { width, height, source });
  }

  /** Run the model on pixels. Answers {logits, ms: {model}}. */
  pixels(pixels) {
    return this.#ask("pixels", { pixels });
  }

  #ask(kind, given, transfer = []) {
    if (this.#broken) return Promise.reject(new Error(this.#broken));
    this.#last += 1;
    const id = this.#last;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, kind, ...given }, transfer);
    });
  }

  #settle({ id, answer, error, bad }) {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error === undefined) waiting?.resolve(answer);
    else waiting?.reject(bad ? new BadPicture(error) : new Error(error));
  }
}

/** Confidences from logits: softmax(logits / temperature). */
export function confidences(logits, temperature) {
  const scaled = Array.from(logits, (value) => value / (temperature ?? 1));
  const top = Math.max(...scaled);
  const powers = scaled.map((value) => Math.exp(value - top));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}

/** The position of the largest value; of equals the first, as numpy's argmax. */
export function best(values) {
  let found = 0;
  for (let i = 1; i < values.length; i += 1) if (values[i] > values[found]) found = i;
  return found;
}
