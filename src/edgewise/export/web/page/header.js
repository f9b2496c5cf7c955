// What a picture file is, read from its first bytes before anything is decoded.

import { MAX_PIXELS } from "./pixels.js";

const LOOKED_AT = 4 << 20; // a JPEG may carry megabytes of profile and thumbnails before its size

/** A file that is no picture this page can use; the message says why, in words for people. */
export class BadPicture extends Error {}

/** The format and size of a picture file (a Blob). Throws BadPicture. */
export async function readHeader(blob) {
  if (blob.size === 0) throw new BadPicture("the file is empty");
  const bytes = new Uint8Array(await blob.slice(0, LOOKED_AT).arrayBuffer());
  const view = new DataView(bytes.buffer);
  const reader = READERS.find(({ starts }) => starts(bytes));
  if (!reader) throw new BadPicture("not a JPEG, PNG, GIF, WebP or BMP picture");
  let size;
  try {
    size = reader.size(view);
  } catch (problem) {
    if (!(problem instanceof RangeError)) throw problem;
    size = null; // the file ends before its size
  }
  if (!size || size.some((side) => side < 1)) throw new BadPicture(`a damaged ${reader.format} file`);
  const [width, height] = size;
  if (width * height > MAX_PIXELS) {
    throw new BadPicture(`${width} x ${height} pixels, more than the ${MAX_PIXELS / 1e6} million allowed`);
  }
  return { format: reader.format, width, height };
}

const READERS = [
  {
    format: "PNG",
    starts: (b) => b[0] === 0x89 && text(b, 1, 3) === "PNG",
    size: (v) => [v.getUint32(16), v.getUint32(20)],
  },
  { format: "JPEG", starts: (b) => b[0] === 0xff && b[1] === 0xd8, size: jpegSize },
  { format: "GIF", starts: (b) => text(b, 0, 4) === "GIF8", size: (v) => [v.getUint16(6, true), v.getUint16(8, true)] },
  { format: "BMP", starts: (b) => text(b, 0, 2) === "BM", size: bmpSize },
  { format: "WebP", starts: (b) => text(b, 0, 4) === "RIFF" && text(b, 8, 4) === "WEBP", size: webpSize },
];

function text(bytes, at, length) {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

/** From segment to segment until a frame header (SOF0 to SOF15 without DHT, JPG, DAC). */
function jpegSize(view) {
  let at = 2;
  for (;;) {
    if (view.getUint8(at) !== 0xff) return null;
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) at += 1;
    else if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      return [view.getUint16(at + 7), view.getUint16(at + 5)];
    } else if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) at += 2;
    else at += 2 + view.getUint16(at + 2);
  }
}

function bmpSize(view) {
  if (view.getUint32(14, true) === 12) return [view.getUint16(18, true), view.getUint16(20, true)];
  return [Math.abs(view.getInt32(18, true)), Math.abs(view.getInt32(22, true))];
}

function webpSize(view) {
  const kind = String.fromCharCode(...new Uint8Array(view.buffer, 12, 4));
  const three = (at) => 1 + view.getUint16(at, true) + (view.getUint8(at + 2) << 16);
  if (kind === "VP8X") return [three(24), three(27)];
  if (kind === "VP8 ") return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
  if (kind !== "VP8L") return null;
  const bits = view.getUint32(21, true);
  return [1 + (bits & 0x3fff), 1 + ((bits >>> 14) & 0x3fff)];
}
