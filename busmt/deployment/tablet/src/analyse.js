// From a file to the answer.
import { letterbox, restoreMask, toInput } from "./image.js";
import { readImage } from "./read.js";

/** Read a file and run the model: {image, answer}. */
export async function analyse(file, card, forward) {
  const image = await readImage(file);
  const box = letterbox(image.height, image.width, card.input.size);
  const outputs = await forward(toInput(image.grey, box));
  const probabilities = Array.from(outputs.label);
  const label = card.classes[probabilities.indexOf(Math.max(...probabilities))];
  const mask = restoreMask(outputs.mask, box, card.mask_threshold);
  const attention = outputs.attention ? { map: outputs.attention, box } : null;
  return { image, answer: { label, probabilities, mask, refer: isReferred(probabilities, card), attention } };
}

/** As busmt.evaluation.calibration.is_referred: not called malignant, yet too probable to be left; null without a rule. */
export function isReferred(probabilities, card) {
  const threshold = card.referral_threshold, malignant = card.classes.indexOf("malignant");
  if (threshold === null || threshold === undefined) return null;
  const called = probabilities.indexOf(Math.max(...probabilities)) === malignant;
  return !called && probabilities[malignant] >= Math.fround(threshold); // numpy compares in 32 bits, too
}
