// Reads cases on standard input and answers with the pixels that pixels.js makes of each.
//
// In: one line of JSON, [{width, height, channels, spec}, ...], then the pictures' bytes one after the other.
// Out: the prepared bytes one after the other.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { prepare, whole } = await import(pathToFileURL(process.argv[2]));
const input = readFileSync(0);
const end = input.indexOf(10);
let at = end + 1;
const answers = [];
for (const { width, height, channels, spec } of JSON.parse(input.subarray(0, end).toString())) {
  const size = width * height * channels;
  answers.push(prepare(whole(width, height, channels, new Uint8Array(input.subarray(at, at + size))), spec));
  at += size;
}
process.stdout.write(Buffer.concat(answers));
