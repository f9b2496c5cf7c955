// From decoded pixels to the pixels the model sees: edgewise/device/preprocess.py in JavaScript, bit for bit.
//
// Resampling is Pillow's for 8-bit images (libImaging/Resample.c): two passes with weights of 22 fractional bits, each
// rounded and limited to 0..255, so that their order shows in the last bit: the width comes first. Box edges are 32-bit
// floats there, so they are here. Nearest is Pillow's affine scaling (libImaging/Geometry.c), which adds up its positions.
//
// An image is {width, height, channels, rows(top, count)}; rows gives bytes, row after row, so that a large picture
// never has to stand in memory as a whole.

const PRECISION_BITS = 32 - 8 - 2;
const HALF = 1 << (PRECISION_BITS - 1);
const STRIP = 1 << 20; // pixels that are read at a time

export const MAX_PIXELS = 64 * 1000 * 1000;

const FILTERS = {
  bilinear: { support: 1, weight: (x) => (Math.abs(x) < 1 ? 1 - Math.abs(x) : 0) },
  bicubic: { support: 2, weight: cubic },
};

function cubic(signed) {
  const a = -0.5;
  const x = Math.abs(signed);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** An image whose bytes stand in memory. */
export function whole(width, height, channels, data) {
  const rows = (top, count) => data.subarray(top * width * channels, (top + count) * width * channels);
  return { width, height, channels, rows };
}

/** The same image with 1 channel (ITU-R 601 gray, in Pillow's integers) or 3; a fourth channel is left out. */
export function toMode(image, channels) {
  if (image.channels === channels) return image;
  const convert = channels === 1 ? toGray : toColour;
  return { ...image, channels, rows: (top, count) => convert(image.rows(top, count), image.channels) };
}

function toGray(data, step) {
  const out = new Uint8Array(data.length / step);
  for (let i = 0, j = 0; i < out.length; i += 1, j += step) {
    out[i] = (data[j] * 19595 + data[j + 1] * 38470 + data[j + 2] * 7471 + 0x8000) >> 16;
  }
  return out;
}

function toColour(data, step) {
  const out = new Uint8Array((data.length / step) * 3);
  const [green, blue] = step === 1 ? [0, 0] : [1, 2];
  for (let i = 0, j = 0; i < out.length; i += 3, j += step) {
    out[i] = data[j];
    out[i + 1] = data[j + green];
    out[i + 2] = data[j + blue];
  }
  return out;
}

/**
 * The pixels the model sees: bytes of height x width x channels.
 * spec: {height, width, channels, fit, interpolation} as in the bundle's manifest.
 */
export function prepare(source, spec) {
  const { height, width, channels, fit } = spec;
  const image = toMode(source, channels);
  if (image.height === height && image.width === width) return image.rows(0, height).slice();
  if (fit === "squash") return resize(image, width, height, spec).rows(0, height);
  if (fit === "crop") {
    const left = Math.max(0, (image.width - (image.height * width) / height) / 2);
    const top = Math.max(0, (image.height - (image.width * height) / width) / 2);
    const box = [left, top, image.width - left, image.height - top];
    return resize(image, width, height, spec, box).rows(0, height);
  }
  if (fit === "pad") return padded(image, spec);
  throw new Error(`unknown fit ${fit}`);
}

function padded(image, spec) {
  const { height, width, channels } = spec;
  const scale = Math.min(width / image.width, height / image.height);
  const innerWidth = Math.max(1, roundHalfEven(image.width * scale));
  const innerHeight = Math.max(1, roundHalfEven(image.height * scale));
  const pixels = resize(image, innerWidth, innerHeight, spec).rows(0, innerHeight);
  const out = new Uint8Array(height * width * channels);
  const left = Math.floor((width - innerWidth) / 2);
  const top = Math.floor((height - innerHeight) / 2);
  const line = innerWidth * channels;
  for (let y = 0; y < innerHeight; y += 1) {
    out.set(pixels.subarray(y * line, (y + 1) * line), ((top + y) * width + left) * channels);
  }
  return out;
}

/** Python's round(): halves go to the even neighbour. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The part of an image in a box, scaled: the width first, but in slivers, which that would blow up. */
export function resize(image, width, height, { interpolation }, wanted = [0, 0, image.width, image.height]) {
  const [left, top, right, bottom] = wanted;
  if (interpolation === "nearest" || width * image.height <= MAX_PIXELS) {
    return scaled(image, width, height, interpolation, wanted);
  }
  const flat = scaled(image, image.width, height, interpolation, [0, top, image.width, bottom]);
  return scaled(flat, width, height, interpolation, [left, 0, right, height]);
}

/** Pillow's Image.resize((width, height), interpolation, box), as it was up to version 12. */
function scaled(image, width, height, interpolation, wanted) {
  const box = wanted.map(Math.fround);
  const [left, top, right, bottom] = box;
  const aligned = Number.isInteger(left) && Number.isInteger(top);
  if (aligned && Math.fround(right - left) === width && Math.fround(bottom - top) === height) {
    return cut(image, left, top, width, height);
  }
  if (interpolation === "nearest") return nearest(image, width, height, box);
  return resample(image, width, height, FILTERS[interpolation], box);
}

function cut(image, left, top, width, height) {
  const step = image.channels;
  const out = new Uint8Array(width * height * step);
  for (let y = 0; y < height; y += 1) {
    out.set(image.rows(top + y, 1).subarray(left * step, (left + width) * step), y * width * step);
  }
  return whole(width, height, step, out);
}

function nearest(image, width, height, [left, top, right, bottom]) {
  const step = image.channels;
  const columns = positions(width, Math.fround(right - left) / width, left, image.width);
  const lines = positions(height, Math.fround(bottom - top) / height, top, image.height);
  const out = new Uint8Array(width * height * step);
  for (let y = 0; y < height; y += 1) {
    if (lines[y] < 0) continue;
    const row = image.rows(lines[y], 1);
    for (let x = 0; x < width; x += 1) {
      if (columns[x] < 0) continue;
      for (let c = 0; c < step; c += 1) out[(y * width + x) * step + c] = row[columns[x] * step + c];
    }
  }
  return whole(width, height, step, out);
}

function positions(size, scale, start, limit) {
  const found = new Int32Array(size);
  let at = start + scale * 0.5;
  for (let i = 0; i < size; i += 1) {
    found[i] = at >= 0 && Math.trunc(at) < limit ? Math.trunc(at) : -1;
    at += scale;
  }
  return found;
}

/** For each output position: the first input position, how many there are, and their weights in fixed point. */
function coefficients(inSize, in0, in1, outSize, filter) {
  const scale = Math.fround(in1 - in0) / outSize;
  const spread = Math.max(scale, 1);
  const support = filter.support * spread;
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(outSize);
  const count = new Int32Array(outSize);
  const weights = new Int32Array(outSize * stride);
  const exact = new Float64Array(stride);
  const inverse = 1 / spread;
  for (let i = 0; i < outSize; i += 1) {
    const center = in0 + (i + 0.5) * scale;
    const low = Math.max(0, Math.trunc(center - support + 0.5));
    const many = Math.min(inSize, Math.trunc(center + support + 0.5)) - low;
    let sum = 0;
    for (let k = 0; k < many; k += 1) {
      exact[k] = filter.weight((k + low - center + 0.5) * inverse);
      sum += exact[k];
    }
    for (let k = 0; k < many; k += 1) {
      const share = (sum === 0 ? exact[k] : exact[k] / sum) * (1 << PRECISION_BITS);
      weights[i * stride + k] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    }
    first[i] = low;
    count[i] = many;
  }
  return { first, count, weights, stride };
}

function resample(image, width, height, filter, [left, top, right, bottom]) {
  const across = width !== image.width || left !== 0 || right !== width;
  const down = height !== image.height || top !== 0 || bottom !== height;
  const vertical = coefficients(image.height, top, bottom, height, filter);
  const horizontal = across ? coefficients(image.width, left, right, width, filter) : null;
  const step = image.channels;
  const from = down ? vertical.first[0] : 0;
  const to = down ? vertical.first[height - 1] + vertical.count[height - 1] : image.height;
  const narrowed = scaleAcross(image, from, to - from, width, horizontal);
  if (!down) return whole(width, height, step, narrowed);
  const out = new Uint8Array(width * height * step);
  for (let y = 0; y < height; y += 1) {
    scaleDown(narrowed, (vertical.first[y] - from) * width * step, out, y * width * step, width * step, y, vertical);
  }
  return whole(width, height, step, out);
}

/** Rows `top` to `top + count`, each scaled to `width`; the image is read a strip at a time. */
function scaleAcross(image, top, count, width, table) {
  const step = image.channels;
  const line = image.width * step;
  const out = new Uint8Array(count * width * step);
  const rows = Math.max(1, Math.floor(STRIP / image.width));
  for (let done = 0; done < count; done += rows) {
    const many = Math.min(rows, count - done);
    const strip = image.rows(top + done, many);
    if (!table) {
      out.set(strip, done * width * step);
      continue;
    }
    for (let y = 0; y < many; y += 1) scaleRow(strip, y * line, out, (done + y) * width * step, width, step, table);
  }
  return out;
}

function scaleRow(input, start, out, place, width, step, { first, count, weights, stride }) {
  let at = place;
  for (let x = 0; x < width; x += 1) {
    const base = start + first[x] * step;
    const end = x * stride + count[x];
    for (let c = 0; c < step; c += 1) {
      let sum = HALF;
      for (let k = x * stride, i = base + c; k < end; k += 1, i += step) sum += input[i] * weights[k];
      out[at] = limited(sum);
      at += 1;
    }
  }
}

/** One output row of the vertical pass: `line` bytes of `input` from `start` on, and the lines below it. */
function scaleDown(input, start, out, place, line, y, { count, weights, stride }) {
  const end = y * stride + count[y];
  for (let x = 0; x < line; x += 1) {
    let sum = HALF;
    for (let k = y * stride, i = start + x; k < end; k += 1, i += line) sum += input[i] * weights[k];
    out[place + x] = limited(sum);
  }
}

function limited(sum) {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}
