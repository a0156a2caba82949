import { Editor } from "./editor.js";
import { letterbox, measure, restore, restoreMask, toInput } from "./image.js";
import { loadModel } from "./model.js";
import { readImage } from "./read.js";
import { strings } from "./strings.js";

const $ = (id) => document.getElementById(id);
const state = { card: null, forward: null, image: null, answer: null };
const editor = new Editor($("picture"), () => showSize());

/** Everything from a file to the answer; the tests call it, too. */
export async function analyse(file) {
  const image = await readImage(file);
  const box = letterbox(image.height, image.width, state.card.input.size);
  const outputs = await state.forward(toInput(image.grey, box));
  const probabilities = Array.from(outputs.label);
  const label = state.card.classes[probabilities.indexOf(Math.max(...probabilities))];
  const mask = restoreMask(outputs.mask, box, state.card.mask_threshold);
  const rule = state.card.referral_threshold;
  const malignant = probabilities[state.card.classes.indexOf("malignant")];
  const refer = rule === null || rule === undefined ? null : malignant >= rule;
  const attention = outputs.attention ? restore(outputs.attention, box) : null;
  return { image, answer: { label, probabilities, mask, refer, attention } };
}

async function open(file) {
  if (!file) return;
  busy(true);
  tell(strings.working);
  try {
    Object.assign(state, await analyse(file));
    editor.show(state.image, state.answer.mask);
    setMode(null);
    $("attention").setAttribute("aria-pressed", "false");
    showAnswer();
    tell(strings.done);
  } catch (error) {
    tell(error.message, true);
  }
  busy(false);
}

function showAnswer() {
  const { label, probabilities, refer, attention } = state.answer;
  $("empty").hidden = true;
  $("picture").hidden = $("result").hidden = $("tools").hidden = false;
  $("class").textContent = strings.classes[label];
  $("class").dataset.label = label;
  $("probability").textContent = strings.probability(Math.max(...probabilities));
  const rows = state.card.classes.map((name, i) => {
    const row = document.createElement("li");
    const bar = Object.assign(document.createElement("meter"), { min: 0, max: 1, value: probabilities[i] });
    bar.setAttribute("aria-label", strings.classes[name]);
    row.append(`${strings.classes[name]} ${strings.probability(probabilities[i])}`, bar);
    return row;
  });
  $("probabilities").replaceChildren(...rows);
  $("refer").textContent = refer === null ? strings.noRule : refer ? strings.refer : strings.noRefer;
  $("refer").dataset.refer = String(refer);
  $("attention").hidden = !attention;
  showSize();
}

function showSize() {
  const size = measure(editor.mask, state.image.width);
  const spacing = state.image.spacing;
  const lines = size ? [strings.sizePixels(size.area, size.width, size.height)] : [strings.noLesion];
  if (size && spacing) {
    const area = size.area * spacing.row * spacing.column;
    lines.push(strings.sizeMillimetres(area, size.width * spacing.column, size.height * spacing.row));
  }
  if (editor.corrected) lines.push(strings.corrected);
  $("size").textContent = lines.join(" · ");
  $("undo").disabled = !editor.history.length;
}

function setMode(mode) {
  editor.mode = mode;
  $("edit").textContent = mode ? strings.drawDone : strings.draw;
  $("edit").setAttribute("aria-pressed", String(Boolean(mode)));
  for (const name of ["add", "erase"]) {
    $(name).hidden = !mode;
    $(name).setAttribute("aria-pressed", String(mode === name));
  }
  $("help").hidden = $("undo").hidden = $("reset").hidden = !mode;
  $("picture").dataset.mode = mode ?? "";
  if (state.image) editor.draw();
}

function record() {
  const { label, probabilities, refer } = state.answer;
  const size = measure(editor.mask, state.image.width);
  return {
    image: state.image.name,
    height: state.image.height,
    width: state.image.width,
    spacing_mm: state.image.spacing,
    model: { name: state.card.name, busmt: state.card.busmt, variant: state.card.variant, sha256: state.card.model_sha256 },
    label,
    probabilities: Object.fromEntries(state.card.classes.map((name, i) => [name, probabilities[i]])),
    refer,
    lesion: size,
    corrected: editor.corrected,
    mask_runs: runs(editor.mask),
    notice: strings.notice,
  };
}

/** Run lengths of the mask in row order, beginning with the background. */
function runs(mask) {
  const lengths = [];
  let value = 0, length = 0;
  for (const pixel of mask) {
    if (pixel !== value) {
      lengths.push(length);
      [value, length] = [pixel, 0];
    }
    length++;
  }
  return [...lengths, length];
}

async function results() {
  const pen = editor.mode;
  editor.mode = null;
  editor.draw();
  const picture = await new Promise((resolve) => $("picture").toBlob(resolve, "image/png"));
  editor.mode = pen;
  editor.draw();
  const stem = state.image.name.replace(/\.[^.]*$/, "");
  const data = new Blob([JSON.stringify(record(), null, 2)], { type: "application/json" });
  return [
    new File([picture], `${stem}_overlay.png`, { type: "image/png" }),
    new File([data], `${stem}.json`, { type: "application/json" }),
  ];
}

function save(file) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: file.name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  tell(strings.saved);
}

async function share() {
  const files = await results();
  const shareable = navigator.canShare?.({ files }) ? files : files.slice(0, 1);
  try {
    await navigator.share({ files: shareable, title: strings.title });
  } catch (error) {
    if (error.name !== "AbortError") files.forEach(save);
  }
}

function tell(text, wrong = false) {
  $("status").textContent = text;
  $("status").dataset.wrong = String(wrong);
}

function busy(value) {
  document.body.setAttribute("aria-busy", String(value));
  for (const id of ["photo", "file"]) $(id).disabled = value;
}

function wire() {
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = strings[element.dataset.text];
  for (const id of ["photo", "file"]) {
    $(id).addEventListener("change", () => {
      open($(id).files[0]);
      $(id).value = "";
    });
  }
  $("edit").addEventListener("click", () => {
    setMode(editor.mode ? null : "add");
    if (editor.mode) $("picture").focus();
  });
  for (const name of ["add", "erase"]) $(name).addEventListener("click", () => setMode(name));
  $("undo").addEventListener("click", () => editor.undo());
  $("reset").addEventListener("click", () => editor.reset());
  $("attention").addEventListener("click", () => {
    const shown = $("attention").getAttribute("aria-pressed") !== "true";
    $("attention").setAttribute("aria-pressed", String(shown));
    editor.setAttention(shown ? state.answer.attention : null);
  });
  $("save-picture").addEventListener("click", async () => save((await results())[0]));
  $("save-data").addEventListener("click", async () => save((await results())[1]));
  $("share").addEventListener("click", share);
  $("share").hidden = !navigator.share;
  document.addEventListener("keydown", (event) => {
    if (!editor.mode) return;
    if (event.key === "Escape") setMode(null);
    if (event.key.toLowerCase() === "z") editor.undo();
  });
}

async function start() {
  wire();
  tell(strings.loading);
  busy(true);
  if ("serviceWorker" in navigator) navigator.serviceWorker.register("sw.js");
  try {
    state.card = await (await fetch("model.json")).json();
    state.forward = await loadModel(state.card);
    tell(strings.ready);
    busy(false);
    document.body.dataset.ready = "true";
  } catch (error) {
    console.error(error);
    tell(strings.errors.model, true);
  }
}

window.busmt = { analyse };
start();
