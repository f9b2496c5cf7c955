// The page: what is shown, and when it may still be believed. Texts from outside go in as text, never as markup.

import { Camera, WORDS } from "./camera.js";
import { Classifier, best, confidences } from "./classifier.js";
import { BadPicture } from "./header.js";
import { Steady, element, listCameras, listenForFiles, percent, say } from "./parts.js";
import { fetched, selfCheck } from "./selfcheck.js";

const TOP = 5;
const WINDOW = 60; // results that the times are the median of
const FPS_MS = 2000;
const PICTURES = 24; // pictures of the user's that are kept in the row

const at = (id) => document.getElementById(id);
const counted = (number) => number.toLocaleString("en");

const classifier = new Classifier();
const camera = new Camera(at("video"), cameraIs);
const times = { model: [], whole: [], seen: [] };
const steady = new Steady();
let facts = null;
let limit = 0.5; // least confidence at which a label is named; the bundle's, until the slider is moved
let clockStep = 0;
let turn = 0; // answers of an earlier turn are not shown
let shown = null; // {logits} of what is on the page now, null when nothing may be believed

main().catch((problem) => {
  document.documentElement.dataset.state = "failed";
  at("about").textContent = `The page cannot start: ${problem.message}`;
  at("about").classList.add("problem");
});

async function main() {
  facts = await (await fetched("web.json")).json();
  describe();
  const { threads, clockStep: step } = await classifier.start(facts);
  clockStep = step;
  at("clock").textContent =
    `Medians of the last pictures, at most ${WINDOW}; ${threads === 1 ? "1 thread" : `${threads} threads`}; ` +
    `this browser's clock steps by ${Number(step.toPrecision(1))} ms.`;
  listen();
  for (const id of ["camera", "files"]) at(id).disabled = false;
  for (const sample of facts.samples) {
    const url = new URL(sample.file, import.meta.url).href;
    addPicture(sample.name, url, async () => (await fetched(sample.file)).blob());
  }
  await check();
  document.documentElement.dataset.state = "ready";
}

function describe() {
  const { input, model, runtime, temperature, threshold } = facts;
  document.title = facts.name;
  at("name").textContent = facts.name;
  const size = model.bytes < 1e6 ? `${(model.bytes / 1e3).toFixed(1)} kB` : `${(model.bytes / 1e6).toFixed(1)} MB`;
  at("about").textContent =
    `${counted(facts.labels.length)} classes, ${[facts.precision, facts.scheme].filter(Boolean).join(" ")}, ${size}, ` +
    `${runtime.name} ${runtime.version}`;
  at("input").textContent =
    `${input.width} x ${input.height} ${input.channels === 3 ? "RGB" : "gray"}, ${input.fit}, ` +
    `${input.interpolation}, scaled as in training.`;
  at("meaning").textContent =
    temperature === null
      ? "Confidence is the plain softmax of the logits."
      : `Confidence is the softmax of the logits over temperature ${temperature.toFixed(2)}, set on validation images.`;
  if (typeof threshold !== "number") return;
  setLimit(threshold);
  at("threshold").value = Math.round(100 * threshold);
  const asked = facts.precision_asked === null ? "" : ` for at least ${percent(facts.precision_asked)} right answers`;
  at("meaning").textContent += ` Named from ${shownLimit(threshold)} on, chosen on validation images${asked}.`;
}

function setLimit(share) {
  limit = share;
  at("limit").textContent = shownLimit(share);
}

/** To a tenth of a percent, finer where that would say 100 % of what is less. */
function shownLimit(share) {
  const value = 100 * share;
  let digits = 0;
  const off = () => Math.abs(Number(value.toFixed(digits)) - value) > 0.05;
  while (digits < 6 && (off() || (share < 1 && Number(value.toFixed(digits)) === 100))) digits += 1;
  return `${value.toFixed(digits)} %`;
}

// --- Pictures -----------------------------------------------------------------------------------------------------

function listen() {
  listenForFiles(takeFiles);
  at("camera").addEventListener("click", () => {
    if (camera.open || camera.state === "asking") stopCamera();
    else startCamera();
  });
  at("device").addEventListener("change", ({ target }) => startCamera(target.value));
  at("threshold").addEventListener("input", () => {
    setLimit(at("threshold").value / 100);
    if (shown) showResult(shown);
  });
  at("again").addEventListener("click", check);
  document.addEventListener("visibilitychange", () => camera.open && clearResult());
}

/** Classify files one after the other; the last good one stays on the stage. */
async function takeFiles(files) {
  if (!files.length) return;
  const mine = begin();
  const problems = [];
  for (const file of files) {
    try {
      const result = await classified(file);
      if (mine !== turn) return;
      const url = URL.createObjectURL(file);
      const item = addPicture(file.name, url, async () => file, true);
      present(item, url, file.name, result);
    } catch (problem) {
      if (mine !== turn) return;
      problems.push(`${file.name}: ${told(problem)}`);
      at("problems").replaceChildren(...problems.map((line) => element("li", line)));
      if (!shown) stage("hint");
    }
  }
}

/** A button in the row of pictures. `read` gives the file when the button is pressed. */
function addPicture(name, url, read, own = false) {
  const item = element("li");
  const button = element("button");
  const image = element("img");
  button.type = "button";
  image.src = url;
  image.alt = "";
  const caption = element("bdi", name);
  caption.className = "file";
  button.title = name;
  button.append(image, caption, element("bdi"));
  button.addEventListener("click", async () => {
    const mine = begin();
    try {
      const result = await classified(await read());
      if (mine === turn) present(item, url, name, result);
    } catch (problem) {
      if (mine !== turn) return;
      stage("hint");
      at("problems").replaceChildren(element("li", `${name}: ${told(problem)}`));
    }
  });
  item.append(button);
  at("gallery").append(item);
  if (own) {
    item.dataset.url = url;
    const mine = [...at("gallery").children].filter((one) => one.dataset.url);
    if (mine.length > PICTURES) {
      URL.revokeObjectURL(mine[0].dataset.url);
      mine[0].remove();
    }
  }
  return item;
}

/** The classifier's answer with the time from file to label. */
async function classified(file) {
  const start = performance.now();
  const result = await classifier.picture(file);
  return { ...result, whole: performance.now() - start };
}

function present(item, url, name, result) {
  stage("picture");
  at("picture").src = url;
  at("picture").alt = name;
  at("gallery").querySelector("[aria-current]")?.removeAttribute("aria-current");
  item.firstChild.setAttribute("aria-current", "true");
  item.firstChild.lastChild.textContent = facts.labels[best(result.logits)];
  noteTimes(result);
  showResult(result);
  say(at("label").textContent, at("confidence").textContent);
}

/** What is shown from here on belongs to something new: the camera ends, the old result goes. */
function begin() {
  turn += 1;
  at("problems").replaceChildren();
  if (camera.state !== "off") {
    camera.stop();
    forgetTimes();
    stage("hint");
  }
  clearResult();
  return turn;
}

// --- Camera -------------------------------------------------------------------------------------------------------

async function startCamera(deviceId = "") {
  const mine = begin();
  forgetTimes();
  await camera.start(deviceId);
  if (mine !== turn || !camera.open) return;
  stage("video");
  listCameras(camera).catch(() => (at("devices").hidden = true)); // the open camera does without the list
  for (;;) {
    let result, came;
    try {
      const frame = await camera.next();
      if (mine !== turn || !frame) return;
      came = frame.came;
      result = await classifier.frame(frame.bitmap);
    } catch (problem) {
      if (mine === turn) {
        stopCamera();
        at("problems").replaceChildren(element("li", told(problem)));
      }
      return;
    }
    // A label is shown for a live picture only: not after the camera went away, nor while the page is hidden.
    if (mine !== turn || camera.state !== "live" || document.hidden) continue;
    const now = performance.now();
    noteTimes({ ...result, whole: now - came }, now);
    showResult(result);
    steady.note(at("label").textContent, at("confidence").textContent);
  }
}

function stopCamera() {
  begin();
  stage("hint");
}

/** Show one of video, picture and hint; none of them for any other word. */
function stage(what) {
  for (const id of ["video", "picture", "hint"]) at(id).hidden = id !== what;
}

/** Told by the camera whenever its state changes. */
function cameraIs(state) {
  document.documentElement.dataset.camera = state;
  const going = ["asking", "live", "waiting"].includes(state);
  at("camera").textContent = going ? "Stop camera" : "Start camera";
  at("words").textContent = WORDS[state];
  at("words").hidden = !WORDS[state];
  if (state === "live") return;
  clearResult();
  if (state === "off" || state === "waiting") return;
  stage("words");
  if (!going) turn += 1;
}

// --- Results ------------------------------------------------------------------------------------------------------

function clearResult() {
  shown = null;
  steady.forget();
  at("result").dataset.state = "empty";
  at("kicker").textContent = "Result";
  at("label").textContent = "Nothing yet";
  at("confidence").textContent = "";
  at("announce").textContent = "";
  at("top").replaceChildren();
  at("fps").textContent = "–";
  at("gallery").querySelector("[aria-current]")?.removeAttribute("aria-current");
  const context = at("pixels").getContext("2d");
  context.clearRect(0, 0, at("pixels").width, at("pixels").height);
}

function showResult(result) {
  shown = result;
  const shares = confidences(result.logits, facts.temperature);
  const order = shares.map((_, i) => i).sort((a, b) => shares[b] - shares[a] || a - b);
  const [first] = order;
  const sure = shares[first] >= limit;
  at("result").dataset.state = sure ? "sure" : "unsure";
  at("kicker").textContent = sure ? "Result" : "Not sure enough";
  at("label").textContent = sure ? facts.labels[first] : "Not sure";
  at("confidence").textContent = sure ? percent(shares[first]) : `best guess below, ${percent(shares[first])}`;
  showTop(order.slice(0, TOP), shares);
  showPixels(result.pixels);
}

function showTop(order, shares) {
  const list = at("top");
  while (list.children.length < order.length) {
    const item = element("li");
    item.append(element("bdi"), element("span"), element("i"));
    list.append(item);
  }
  order.forEach((label, i) => {
    const [name, share, bar] = list.children[i].children;
    name.textContent = facts.labels[label];
    share.textContent = percent(shares[label]);
    bar.style.setProperty("--share", shares[label]);
  });
}

function showPixels(pixels) {
  const { width, height, channels } = facts.input;
  const picture = new ImageData(width, height);
  for (let i = 0; i < width * height; i += 1) {
    for (let c = 0; c < 3; c += 1) picture.data[4 * i + c] = pixels[i * channels + (channels === 3 ? c : 0)];
    picture.data[4 * i + 3] = 255;
  }
  const canvas = at("pixels");
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

// --- Times --------------------------------------------------------------------------------------------------------

function noteTimes({ ms, whole }, now = null) {
  times.model.push(ms.model);
  times.whole.push(whole);
  for (const list of [times.model, times.whole]) if (list.length > WINDOW) list.shift();
  at("model-ms").textContent = shownMs(times.model);
  at("whole-ms").textContent = shownMs(times.whole);
  if (now === null) return;
  times.seen = [...times.seen.filter((moment) => now - moment < FPS_MS), now];
  const span = now - times.seen[0];
  at("fps").textContent = span > 500 ? ((1000 * (times.seen.length - 1)) / span).toFixed(1) : "–";
}

function forgetTimes() {
  for (const key of Object.keys(times)) times[key] = [];
  for (const id of ["model-ms", "whole-ms", "fps"]) at(id).textContent = "–";
}

function shownMs(list) {
  const sorted = [...list].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  if (median < clockStep) return `< ${Number(clockStep.toPrecision(1))} ms`;
  return `${median < 10 ? median.toFixed(2) : median.toFixed(1)} ms`;
}

// --- Self-check ---------------------------------------------------------------------------------------------------

async function check() {
  at("again").disabled = true;
  at("verdict").textContent = "running";
  at("verdict").className = "tag";
  try {
    showCheck(await selfCheck(classifier, facts));
  } catch (problem) {
    at("verdict").textContent = "did not run";
    at("verdict").className = "tag bad";
    at("findings").replaceChildren(element("dd", problem.message));
  }
  at("again").disabled = false;
}

function showCheck(found) {
  const { scaling, model, decoding } = found;
  const passed = scaling.wrong === 0 && model.passed;
  at("verdict").textContent = passed ? "agrees with edgewise" : "differs from edgewise";
  at("verdict").className = `tag ${passed ? "good" : "bad"}`;
  const lines = [
    ["Scaling", `${counted(scaling.wrong)} of ${counted(scaling.values)} values differ from training's`],
    [
      "Model",
      `largest difference of logits ${model.delta ? model.delta.toExponential(1) : 0}, ${model.same} of ${model.cases} the same label ` +
        `as ${facts.check.runtime}`,
    ],
  ];
  if (decoding) {
    const { largest, mean, samples } = decoding;
    const many = samples === 1 ? "1 sample" : `${samples} samples`;
    lines.push(["Decoding", `${many}, at most ${largest} of 255 off, ${mean.toFixed(3)} on average`]);
  }
  at("findings").replaceChildren(
    ...lines.map(([name, text]) => {
      const row = element("div");
      row.append(element("dt", name), element("dd", text));
      return row;
    }),
  );
  at("findings").dataset.found = JSON.stringify(found);
}

function told(problem) {
  return problem instanceof BadPicture ? problem.message : `this failed: ${problem.message}`;
}
