// What the offline page and the page of `edgewise serve` have in common.

const STEADY_MS = 1000; // a camera label is read out when it has stayed so long

const at = (id) => document.getElementById(id);
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** `take(files)` is called with the files that are opened, dropped or pasted. */
export function listenForFiles(take) {
  at("files").addEventListener("change", ({ target }) => {
    const files = [...target.files];
    target.value = "";
    take(files);
  });
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  addEventListener("dragover", () => at("view").classList.add("over"));
  for (const name of ["dragleave", "drop"]) addEventListener(name, () => at("view").classList.remove("over"));
  addEventListener("drop", ({ dataTransfer }) => take([...dataTransfer.files]));
  addEventListener("paste", ({ clipboardData }) => take([...clipboardData.files]));
}

/** Offer the cameras by name where there are several. */
export async function listCameras(camera) {
  const found = await camera.list();
  const options = found.map(({ deviceId, label }, i) => {
    const option = element("option", label || `Camera ${i + 1}`);
    option.value = deviceId;
    return option;
  });
  at("device").replaceChildren(...options);
  at("device").value = camera.deviceId;
  at("devices").hidden = found.length < 2;
}

/** Read words out, for those who listen to the page. */
export function say(...words) {
  at("announce").textContent = words.join(", ");
}

/** The label of a camera, which is read out when it has not changed for a while, and only once. */
export class Steady {
  #label = "";
  #since = 0;
  #said = "";

  forget() {
    this.#label = this.#said = "";
    this.#since = 0;
  }

  note(label, confidence) {
    const now = performance.now();
    if (label !== this.#label) [this.#label, this.#since] = [label, now];
    if (now - this.#since < STEADY_MS || this.#said === label) return;
    this.#said = label;
    say(label, confidence);
  }
}
