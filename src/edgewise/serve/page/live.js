// The server's own camera: asked for view by view, so that a slow page skips frames instead of falling behind.

import { named } from "./answers.js";
import { percent } from "./parts.js";

const SILENCE_MS = 3000; // the server says something twice a second; after so long it counts as gone

/** `tell(facts)` is called with the facts of each view; `facts.state` is "live", "no signal", "ended" or "gone". */
export class Watcher {
  #socket = null;
  #canvas;
  #tell;
  #timer = 0;

  constructor(canvas, tell) {
    this.#canvas = canvas;
    this.#tell = tell;
  }

  get open() {
    return this.#socket !== null;
  }

  start() {
    this.stop();
    const address = new URL("v1/live", location.href);
    address.protocol = "ws:";
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.addEventListener("open", () => socket.send("next"));
    socket.addEventListener("message", async ({ data }) => {
      await this.#show(socket, data);
      if (this.#socket === socket && socket.readyState === WebSocket.OPEN) socket.send("next");
    });
    socket.addEventListener("close", ({ reason }) => {
      if (this.#socket === socket) this.#gone(reason || "The server does not answer.");
    });
    this.#wait();
  }

  stop() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #wait() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#gone("The server does not answer."), SILENCE_MS);
  }

  #gone(note) {
    this.stop();
    this.#tell({ state: "gone", note });
  }

  async #show(socket, data) {
    const length = new DataView(data).getUint32(0);
    const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    if (facts.state === "live") {
      const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
      if (this.#socket === socket) draw(this.#canvas, bitmap, facts);
      bitmap.close();
    }
    if (this.#socket !== socket) return;
    this.#wait();
    if (facts.state === "same") return;
    this.#tell(facts);
    if (facts.state === "ended") this.stop();
  }
}

/** The picture with its boxes; labels are drawn as text. */
function draw(canvas, bitmap, { width, height, seen }) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  }
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const size = Math.max(12, Math.round(bitmap.height / 28));
  Object.assign(context, { font: `600 ${size}px system-ui, sans-serif`, lineWidth: size / 6, textBaseline: "top" });
  for (const { box, results } of seen) {
    const [left, top, wide, high] = box.map((value, i) => (value * (i % 2 ? bitmap.height / height : bitmap.width / width)));
    if (wide >= bitmap.width - 1 && high >= bitmap.height - 1) continue; // the whole frame needs no box
    context.strokeStyle = "#56b4e9";
    context.strokeRect(left, top, wide, high);
    const words = results.map((result) => `${named(result)} ${percent(result.confidence)}`).join(" | ");
    const line = Math.max(0, top - size * 1.4);
    context.fillStyle = "rgb(0 0 0 / .7)";
    context.fillRect(left, line, context.measureText(words).width + size * 0.6, size * 1.4);
    context.fillStyle = "#fff";
    context.fillText(words, left + size * 0.3, line + size * 0.2);
  }
}
