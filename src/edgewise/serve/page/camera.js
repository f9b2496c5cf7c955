// The camera: asked for, watched, and never silently gone.

const STALL_MS = 2000; // without a new frame for so long, the picture counts as standing still

export const WORDS = {
  off: "",
  asking: "The browser asks whether this page may use the camera.",
  live: "",
  waiting: "No new picture from the camera. Waiting for it.",
  lost: "The camera is gone: unplugged, or taken by another program.",
  denied:
    "The camera is not allowed for this page. Allow it in the browser's settings for this site, then start again.",
  none: "There is no camera on this device.",
  busy: "The camera cannot be opened. Another program may be using it.",
  insecure: "Browsers give cameras only to pages with https, or at localhost. Pictures work here too.",
};

const REASONS = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "none",
  OverconstrainedError: "none",
  NotReadableError: "busy",
  AbortError: "busy",
};

/** `tell(state)` is called with a key of WORDS when the state changes; frames are to be trusted only while "live". */
export class Camera {
  state = "off";
  #video;
  #tell;
  #stream = null;
  #asked = 0;

  constructor(video, tell) {
    this.#video = video;
    this.#tell = tell;
  }

  /** Whether a stream is open, live or waiting. */
  get open() {
    return this.#stream !== null;
  }

  /** Open a camera: the one with this id, or the one that looks away from the user where there are several. */
  async start(deviceId = "") {
    this.stop();
    if (!navigator.mediaDevices?.getUserMedia) return this.#become("insecure");
    this.#become("asking");
    this.#asked += 1;
    const asked = this.#asked;
    const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "environment" };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        video: { ...which, width: { ideal: 640 }, height: { ideal: 480 } },
        audio: false,
      });
    } catch (problem) {
      if (this.state === "asking" && asked === this.#asked) this.#become(REASONS[problem.name] ?? "busy");
      return undefined;
    }
    if (this.state !== "asking" || asked !== this.#asked) return stopTracks(stream); // stopped or asked anew meanwhile
    this.#stream = stream;
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => this.#stream === stream && this.stop("lost"));
    track.addEventListener("mute", () => this.#stream === stream && this.#become("waiting"));
    this.#video.srcObject = stream;
    await this.#video.play().catch(() => {}); // stopped before it began to play
    return undefined;
  }

  /** Close the stream; `state` says why. */
  stop(state = "off") {
    if (this.#stream) stopTracks(this.#stream);
    this.#stream = null;
    this.#video.srcObject = null;
    if (this.state !== state) this.#become(state);
  }

  /** The next new frame as {bitmap, came}, `came` by performance.now(); null when the stream has ended. */
  async next() {
    const stream = this.#stream;
    while (stream && this.#stream === stream) {
      const came = await newFrame(this.#video);
      if (this.#stream !== stream) return null;
      if (!came) {
        if (this.state === "live" && !document.hidden) this.#become("waiting");
        continue;
      }
      const now = performance.now();
      if (this.state !== "live") this.#become("live");
      return { bitmap: await createImageBitmap(this.#video), came: now };
    }
    return null;
  }

  /** Cameras by id and name, known once one was allowed. */
  async list() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    return devices.filter(({ kind, deviceId }) => kind === "videoinput" && deviceId);
  }

  /** The id of the open camera. */
  get deviceId() {
    return this.#stream?.getVideoTracks()[0]?.getSettings().deviceId ?? "";
  }

  #become(state) {
    this.state = state;
    this.#tell(state);
  }
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/** Resolves with true at the video's next frame, with false when none comes. */
function newFrame(video) {
  return new Promise((resolve) => {
    const request = video.requestVideoFrameCallback(() => {
      clearTimeout(timer);
      resolve(true);
    });
    const timer = setTimeout(() => {
      video.cancelVideoFrameCallback(request);
      resolve(false);
    }, STALL_MS);
  });
}
