// The page: pictures and camera frames go to the server, what comes back is shown for as long as it is true.

import { ASIDE, Answers, Times, milliseconds, named } from "./answers.js";
import { Camera, WORDS } from "./camera.js";
import { Watcher } from "./live.js";
import { Steady, element, listCameras, listenForFiles, say } from "./parts.js";

const FPS_MS = 2000;
const OWN_THREADS = ["grab", "redetect"];
const STAGES = [...OWN_THREADS, "detect", "track", "crop", "classify"]; // of the live loop, in their order
const BESIDE = { crop: "prepare", classify: "classify" }; // what they are called where a second bundle does them
const PICTURES = 24; // pictures that are kept in the row
const FRAME_QUALITY = 0.92;

const at = (id) => document.getElementById(id);
const camera = new Camera(at("video"), cameraIs);
const watcher = new Watcher(at("live"), watched);
const steady = new Steady();
const seen = []; // moments of the last frames
let facts = null;
let answers = null;
let times = null;
let turn = 0; // answers of an earlier turn are not shown
let shown = false;

main().catch((problem) => {
  document.documentElement.dataset.state = "failed";
  at("about").textContent = `The page cannot start: ${problem.message}`;
  at("about").classList.add("problem");
});

async function main() {
  const answer = await fetch("v1/model");
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  facts = await answer.json();
  answers = new Answers(facts.models);
  times = new Times(facts.models);
  describe();
  listen();
  for (const id of ["camera", "files"]) at(id).disabled = false;
  if (facts.source) {
    at("watch").hidden = false;
    at("camera").classList.remove("main");
    startWatching();
  }
  document.documentElement.dataset.state = "ready";
}

function describe() {
  document.title = facts.models.map(({ name }) => name).join(" and ");
  at("name").textContent = document.title;
  at("about").textContent = facts.models.map(described).join(" · ");
}

function described({ labels, precision, scheme, model_bytes: bytes, runtime, input }) {
  const size = bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
  return (
    `${labels.length.toLocaleString("en")} classes, ${[precision, scheme].filter(Boolean).join(" ")}, ${size}, ` +
    `${input.width} x ${input.height} ${input.channels === 3 ? "RGB" : "gray"}, ${runtime.runtime} ${runtime.version}`
  );
}

// --- Pictures -----------------------------------------------------------------------------------------------------

function listen() {
  listenForFiles(takeFiles);
  at("camera").addEventListener("click", () => {
    if (camera.open || camera.state === "asking") stopAll();
    else startCamera();
  });
  at("watch").addEventListener("click", () => {
    if (watcher.open) stopAll();
    else startWatching();
  });
  at("device").addEventListener("change", ({ target }) => startCamera(target.value));
  document.addEventListener("visibilitychange", () => (camera.open || watcher.open) && clearResult());
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
      present(addPicture(file), file.name, result);
    } catch (problem) {
      if (mine !== turn) return;
      problems.push(`${file.name}: ${problem.message}`);
      at("problems").replaceChildren(...problems.map((line) => element("li", line)));
      if (!shown) stage("hint");
    }
  }
}

/** What the server says of a file, with the time from here to its answer. Throws with words for people. */
async function classified(blob) {
  const limit = facts.limits.upload_bytes;
  if (blob.size > limit) throw new Error(`the picture is too large: more than ${limit >> 20} MB`);
  if (blob.size === 0) throw new Error("the file is empty");
  const start = performance.now();
  const answer = await fetch("v1/classify", {
    method: "POST",
    body: blob,
    headers: { "Content-Type": "application/octet-stream" },
  }).catch(() => {
    throw new Error("the server does not answer");
  });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error([said.what ?? `the server answers ${answer.status}`, said.why].filter(Boolean).join(": "));
  return { ...said, whole: performance.now() - start };
}

/** A button in the row of pictures, which shows its picture again. */
function addPicture(file) {
  const item = element("li");
  const button = element("button");
  const image = element("img");
  const caption = element("bdi", file.name, "file");
  button.type = "button";
  button.title = file.name;
  image.src = URL.createObjectURL(file);
  image.alt = "";
  button.append(image, caption, element("bdi"));
  button.addEventListener("click", async () => {
    const mine = begin();
    try {
      const result = await classified(file);
      if (mine === turn) present(item, file.name, result);
    } catch (problem) {
      if (mine !== turn) return;
      stage("hint");
      at("problems").replaceChildren(element("li", `${file.name}: ${problem.message}`));
    }
  });
  item.append(button);
  at("gallery").append(item);
  if (at("gallery").children.length > PICTURES) {
    const [first] = at("gallery").children;
    URL.revokeObjectURL(first.querySelector("img").src);
    first.remove();
  }
  return item;
}

function present(item, name, result) {
  stage("picture");
  at("picture").src = item.querySelector("img").src;
  at("picture").alt = name;
  at("gallery").querySelector("[aria-current]")?.removeAttribute("aria-current");
  item.firstChild.setAttribute("aria-current", "true");
  item.firstChild.lastChild.textContent = named(result.results[0]);
  noteTimes(result);
  showAnswers(result.results);
  say(at("label-0").textContent, at("confidence-0").textContent);
}

/** What is shown from here on belongs to something new: cameras end, the old result goes. */
function begin() {
  turn += 1;
  at("problems").replaceChildren();
  if (camera.state !== "off" || watcher.open) {
    camera.stop();
    watcher.stop();
    watching(false);
    forgetTimes();
    stage("hint");
  }
  clearResult();
  return turn;
}

function stopAll() {
  begin();
  stage("hint");
}

// --- The browser's camera -----------------------------------------------------------------------------------------

async function startCamera(deviceId = "") {
  const mine = begin();
  forgetTimes();
  await camera.start(deviceId);
  if (mine !== turn || !camera.open) return;
  stage("video");
  listCameras(camera).catch(() => (at("devices").hidden = true)); // the open camera does without the list
  for (;;) {
    let result;
    try {
      const frame = await camera.next();
      if (mine !== turn || !frame) return;
      const start = performance.now();
      const picture = await encoded(frame.bitmap);
      const ready = performance.now();
      result = await classified(picture);
      result.encode = ready - start;
      result.whole = performance.now() - frame.came;
    } catch (problem) {
      if (mine !== turn) return;
      stopAll();
      at("problems").replaceChildren(element("li", problem.message));
      return;
    }
    // A label is shown for a live picture only: not after the camera went away, nor while the page is hidden.
    if (mine !== turn || camera.state !== "live" || document.hidden) continue;
    noteTimes(result);
    showAnswers(result.results);
    countFrame();
    steady.note(at("label-0").textContent, at("confidence-0").textContent);
  }
}

async function encoded(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: FRAME_QUALITY });
}

/** Told by the camera whenever its state changes. */
function cameraIs(state) {
  document.documentElement.dataset.camera = state;
  const going = ["asking", "live", "waiting"].includes(state);
  at("camera").textContent = going ? "Stop camera" : "Start camera";
  sayWhy(WORDS[state]);
  if (state === "live") return;
  clearResult();
  if (state === "off" || state === "waiting") return;
  stage("words");
  if (!going) turn += 1;
}

// --- The server's source ------------------------------------------------------------------------------------------

function startWatching() {
  begin();
  forgetTimes();
  stage("live");
  watching(true);
  watcher.start();
}

function watching(on) {
  at("watch").textContent = on ? `Stop watching ${facts.source}` : `Watch ${facts.source}`;
  if (!on) {
    document.documentElement.dataset.live = "off";
    sayWhy("");
  }
}

/** Told of every view; a label is shown for a live picture only. */
function watched(view) {
  document.documentElement.dataset.live = view.state;
  if (view.state !== "live" || document.hidden) {
    clearResult();
    if (view.state === "live") return;
    stage("words");
    sayWhy(`${view.state === "no signal" ? "No signal" : "The live view has ended"}${view.note ? `: ${view.note}` : ""}`);
    if (view.state !== "no signal") at("watch").textContent = `Watch ${facts.source}`;
    return;
  }
  stage("live");
  sayWhy(view.note);
  const beside = (name) => view.beside_ms.reduce((sum, one) => sum + one[name], 0); // over the crops of the frame
  const stages = STAGES.map((stage) => {
    const ms = view.stages[stage] ?? null; // not every stage runs for every frame
    if (OWN_THREADS.includes(stage)) return [stage + ASIDE, ms];
    if (facts.models.length === 1 || ms === null || !(stage in BESIDE)) return [stage, ms];
    return [stage, [ms, beside(BESIDE[stage])]];
  });
  times.add(stages, view.age_ms);
  at("fps").textContent = view.fps.toFixed(1);
  at("dropped").textContent = String(view.dropped);
  if (view.seen.length) {
    showAnswers(view.seen[0].results);
    steady.note(at("label-0").textContent, at("confidence-0").textContent);
  } else clearAnswers();
}

// --- What is shown ------------------------------------------------------------------------------------------------

/** Show one of the live canvas, video, picture, hint and words. */
function stage(what) {
  for (const id of ["live", "video", "picture", "hint"]) at(id).hidden = id !== what;
}

function sayWhy(text) {
  at("words").textContent = text;
  at("words").hidden = !text;
}

function showAnswers(results) {
  shown = true;
  answers.show(results);
}

function clearAnswers() {
  shown = false;
  steady.forget();
  answers?.clear();
}

function clearResult() {
  clearAnswers();
  seen.length = 0;
  at("fps").textContent = "–";
  at("gallery").querySelector("[aria-current]")?.removeAttribute("aria-current");
}

function noteTimes({ ms, results, encode, whole }) {
  const each = (stage) => (results.length > 1 ? results.map((result) => result.ms[stage]) : results[0].ms[stage]);
  const stages = [["decode", ms.decode], ["prepare", each("prepare")], ["classify", each("classify")]];
  if (encode !== undefined) stages.unshift(["encode", encode]);
  const known = stages.flatMap(([, one]) => one).reduce((sum, one) => sum + one, 0);
  times.add([...stages, ["the rest", Math.max(0, whole - known)]], whole);
  at("whole-ms").title = `the last one: ${milliseconds(whole)}`;
}

function countFrame() {
  const now = performance.now();
  seen.push(now);
  while (now - seen[0] > FPS_MS) seen.shift();
  const span = now - seen[0];
  at("fps").textContent = span > 500 ? ((1000 * (seen.length - 1)) / span).toFixed(1) : "–";
}

function forgetTimes() {
  seen.length = 0;
  times.clear();
}
