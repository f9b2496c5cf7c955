// The page against edgewise: the same pixels, the same logits?

import { best } from "./classifier.js";

/**
 * Compare with what stands in check.bin.
 *
 * Answers {scaling: {wrong, values}, model: {delta, same, cases, passed}, decoding: {largest, mean, samples} or null}.
 * A float model passes within `tolerance`. Any model passes only when it decides alike; where the two best logits of a
 * case lie nearer to each other than the largest difference, either decision counts.
 */
export async function selfCheck(classifier, facts) {
  const data = new Uint8Array(await (await fetched(facts.check.file)).arrayBuffer());
  const { height, width, channels } = facts.input;
  const part = (at, length) => data.slice(at, at + length);
  const size = height * width * channels;
  const scaling = { wrong: 0, values: 0 };
  const model = { delta: 0, same: 0, cases: facts.check.cases.length, passed: true };
  const margins = [];
  for (const one of facts.check.cases) {
    const expected = part(one.pixels_at, size);
    const { pixels } = await classifier.scale(one.width, one.height, part(one.source_at, one.width * one.height * 3));
    scaling.wrong += pixels.reduce((count, value, i) => count + (value !== expected[i]), 0);
    scaling.values += size;
    const { logits } = await classifier.pixels(expected);
    model.delta = Math.max(model.delta, ...one.logits.map((value, i) => Math.abs(value - logits[i])));
    if (best(logits) === best(one.logits)) model.same += 1;
    else margins.push(one.logits[best(one.logits)] - one.logits[best(logits)]);
  }
  const { tolerance } = facts.check;
  model.passed = !Number.isNaN(model.delta) && margins.every((margin) => margin <= model.delta);
  if (tolerance !== null && model.delta > tolerance) model.passed = false;
  return { scaling, model, decoding: await decodingOf(classifier, facts, part, size) };
}

/** How far this browser's decoder is from Pillow's, on the sample pictures. */
async function decodingOf(classifier, facts, part, size) {
  const found = { largest: 0, mean: 0, samples: facts.samples.length };
  for (const sample of facts.samples) {
    const { pixels } = await classifier.picture(await (await fetched(sample.file)).blob());
    const differences = part(sample.pixels_at, size).map((value, i) => Math.abs(value - pixels[i]));
    found.largest = differences.reduce((most, value) => Math.max(most, value), found.largest);
    found.mean += differences.reduce((sum, value) => sum + value, 0) / size / facts.samples.length;
  }
  return found.samples ? found : null;
}

/** A file of this folder. */
export async function fetched(file) {
  const answer = await fetch(new URL(file, import.meta.url));
  if (!answer.ok) throw new Error(`${file}: the server answers ${answer.status}`);
  return answer;
}
