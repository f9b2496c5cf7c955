// Decodes, scales and classifies, away from the page, so that the page stays quick however slow the model is.
//
// Asked with {id, kind, ...}, answers {id, answer} or {id, error, bad}; one thing at a time, in order.

import * as ort from "./onnxruntime/ort.wasm.min.js";
import { BadPicture, readHeader } from "./header.js";
import { prepare } from "./pixels.js";

const DECODING = { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" };

let session = null;
let input = null;
let canvas = null;
let line = Promise.resolve();

const TASKS = {
  async start({ model, input: wanted, threads }) {
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = {
      mjs: new URL("./onnxruntime/ort-wasm-simd-threaded.js", import.meta.url).href,
      wasm: new URL("./onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href,
    };
    const answer = await fetch(new URL(model.file, import.meta.url));
    if (!answer.ok) throw new Error(`${model.file}: the server answers ${answer.status}`);
    session = await ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), {
      executionProviders: ["wasm"],
    });
    input = wanted;
    return { clockStep: clockStep() };
  },

  /** The pixels of a picture given as RGB bytes, on the way that files and frames take, by the canvas. */
  async scale({ width, height, source }) {
    const data = new Uint8ClampedArray(width * height * 4).fill(255);
    for (let i = 0, j = 0; i < source.length; i += 3, j += 4) data.set(source.subarray(i, i + 3), j);
    const bitmap = await createImageBitmap(new ImageData(data, width, height), DECODING);
    return { pixels: prepare(drawn(bitmap), input) };
  },

  /** The logits of pixels that are ready. */
  async pixels({ pixels }) {
    const start = performance.now();
    const logits = await run(pixels);
    return { logits, ms: { model: performance.now() - start } };
  },

  /** A picture file. */
  async picture({ blob }) {
    const start = performance.now();
    await readHeader(blob);
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob, DECODING);
    } catch {
      throw new BadPicture("the picture is damaged, or this browser cannot decode it");
    }
    return classify(bitmap, performance.now() - start);
  },

  /** A camera frame, an ImageBitmap. */
  async frame({ bitmap }) {
    return classify(bitmap, 0);
  },
};

async function classify(bitmap, decode) {
  const { width, height } = bitmap;
  const start = performance.now();
  let pixels;
  try {
    pixels = prepare(drawn(bitmap), input);
  } finally {
    bitmap.close();
  }
  const ready = performance.now();
  const logits = await run(pixels);
  const ms = { decode, pixels: ready - start, model: performance.now() - ready };
  return { logits, pixels, width, height, ms };
}

async function run(pixels) {
  const tensor = new ort.Tensor("uint8", pixels, [1, input.height, input.width, input.channels]);
  const answers = await session.run({ [session.inputNames[0]]: tensor });
  return answers[session.outputNames[0]].data.slice();
}

/** A bitmap as an image of RGBA rows, laid on white; drawn a strip at a time, because canvases are limited in size. */
function drawn(bitmap) {
  const { width, height } = bitmap;
  const rows = (top, count) => {
    if (!canvas || canvas.width !== width || canvas.height < count) canvas = new OffscreenCanvas(width, count);
    const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
    context.imageSmoothingEnabled = false;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, -top);
    return context.getImageData(0, 0, width, count).data;
  };
  return { width, height, channels: 4, rows };
}

/** The smallest step of this browser's clock in milliseconds; browsers make it coarse on purpose. */
function clockStep() {
  let step = Infinity;
  for (let i = 0, before = performance.now(); i < 5; i += 1) {
    let now = performance.now();
    while (now === before) now = performance.now();
    step = Math.min(step, now - before);
    before = now;
  }
  return step;
}

self.addEventListener("message", ({ data: { id, kind, ...given } }) => {
  line = line.then(async () => {
    try {
      self.postMessage({ id, answer: await TASKS[kind](given) });
    } catch (problem) {
      self.postMessage({ id, error: String(problem?.message ?? problem), bad: problem instanceof BadPicture });
    }
  });
});
