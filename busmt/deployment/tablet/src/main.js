// The page: buttons, texts, saving and sharing.
import { analyse, isReferred } from "./analyse.js";
import { Editor } from "./editor.js";
import { lockPage } from "./lock.js";
import { parts, toRuns } from "./mask.js";
import { loadModel } from "./model.js";
import { savedPicture } from "./picture.js";
import { strings } from "./strings.js";
import { Unusable } from "./unusable.js";

const $ = (id) => document.getElementById(id);
const state = { card: null, forward: null, image: null, answer: null };
const editor = new Editor($("picture"), () => showSize());

async function open(file) {
  if (!file) return;
  busy(true);
  tell(strings.working);
  await new Promise((resolve) => setTimeout(resolve, 30)); // lets the text appear: the model then keeps the page busy
  try {
    Object.assign(state, await analyse(file, state.card, state.forward));
    showAnswer();
    tell(strings.done);
  } catch (error) {
    if (!(error instanceof Unusable)) console.error(error);
    showNothing(); // an earlier answer must not be taken for that of this file
    tell(error instanceof Unusable ? error.message : strings.errors.unexpected(file.name), true);
  }
  busy(false);
}

function showNothing() {
  setMode(null);
  $("empty").hidden = false;
  $("picture").hidden = $("result").hidden = $("tools").hidden = true;
}

function showAnswer() {
  const { label, probabilities, mask, attention } = state.answer;
  $("empty").hidden = true;
  $("picture").hidden = $("result").hidden = $("tools").hidden = false;
  editor.show(state.image, mask);
  setMode(null);
  showAttention(false);
  $("attention").hidden = !attention;
  $("class").textContent = strings.classes[label];
  $("probability").textContent = strings.probability(Math.max(...probabilities));
  $("probabilities").replaceChildren(...state.card.classes.map((name, i) => bar(strings.classes[name], probabilities[i])));
  const [text, alarm] = referral();
  $("refer").textContent = text;
  $("refer").dataset.alarm = String(alarm);
}

function bar(name, probability) {
  const row = document.createElement("li");
  const meter = Object.assign(document.createElement("meter"), { min: 0, max: 1, value: probability });
  meter.setAttribute("aria-label", name);
  row.append(`${name} ${strings.probability(probability)}`, meter);
  return row;
}

function referral() {
  const { label, refer } = state.answer;
  if (label === "malignant") return [strings.referMalignant, true];
  return refer === null ? [strings.noRule, false] : refer ? [strings.refer, true] : [strings.noRefer, false];
}

/** Size of the whole and, where the outline has several parts, of the largest. */
function sizeLines() {
  const found = parts(editor.mask, state.image.width);
  if (!found.length) return [strings.noLesion];
  const total = found.reduce((sum, part) => sum + part.area, 0);
  const several = found.length > 1;
  const lines = several ? [strings.sizeParts(found.length, total)] : [];
  const millimetres = inMillimetres(found[0]);
  lines.push(strings.sizePixels(several ? strings.largestPart : strings.lesion, found[0].area, found[0].width, found[0].height));
  if (!millimetres) return [...lines, strings.noSpacing];
  return [...lines, strings.sizeMillimetres(millimetres.area, millimetres.width, millimetres.height)];
}

function inMillimetres(size) {
  const spacing = state.image.spacing;
  if (!spacing) return null;
  const { row, column } = spacing;
  return { area: size.area * row * column, width: size.width * column, height: size.height * row };
}

function showSize() {
  const { label, probabilities } = state.answer;
  const lines = sizeLines();
  $("size").textContent = lines.join("\n");
  $("corrected").textContent = editor.corrected ? strings.corrected : "";
  $("undo").disabled = !editor.history.length;
  $("reset").disabled = !editor.corrected;
  const share = strings.probability(Math.max(...probabilities));
  $("picture").setAttribute("aria-label", strings.picture(strings.classes[label], share, lines.join(", ")));
}

function showAttention(shown) {
  $("attention").setAttribute("aria-pressed", String(shown));
  $("legend").hidden = !shown;
  editor.setAttention(shown ? state.answer.attention : null);
}

function setMode(mode) {
  $("edit").textContent = mode ? strings.drawDone : strings.draw;
  $("edit").setAttribute("aria-pressed", String(Boolean(mode)));
  for (const name of ["add", "erase"]) {
    $(name).hidden = !mode;
    $(name).setAttribute("aria-pressed", String(mode === name));
  }
  $("help").hidden = $("undo").hidden = $("reset").hidden = !mode;
  for (const id of ["save-picture", "save-data"]) $(id).hidden = Boolean(mode);
  $("share").hidden = Boolean(mode) || !navigator.share;
  $("picture").dataset.mode = mode ?? "";
  editor.setMode(mode);
}

function record() {
  const { label, probabilities, refer } = state.answer;
  const { name, height, width, spacing } = state.image;
  const { card } = state;
  const lesions = parts(editor.mask, width).map((part) => ({ pixels: part, millimetres: inMillimetres(part) }));
  return {
    schema: "busmt-tablet",
    notice: strings.notice,
    time: new Date().toISOString(),
    image: { name, height, width, spacing_mm: spacing },
    model: { name: card.name, busmt: card.busmt, variant: card.variant, sha256: card.model_sha256 },
    label,
    probabilities: Object.fromEntries(card.classes.map((name, i) => [name, probabilities[i]])),
    refer,
    lesions,
    corrected: editor.corrected,
    mask_runs: toRuns(editor.mask),
  };
}

async function pictureFile() {
  const { label, probabilities } = state.answer;
  const share = strings.probability(Math.max(...probabilities));
  const lines = [strings.caption(strings.classes[label], share, editor.corrected), ...sizeLines(), strings.notice];
  return new File([await savedPicture(editor.scene, lines)], `${stem()}_overlay.png`, { type: "image/png" });
}

function dataFile() {
  return new File([JSON.stringify(record(), null, 2)], `${stem()}.json`, { type: "application/json" });
}

const stem = () => state.image.name.replace(/\.[^.]*$/, "");

function save(file) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: file.name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  tell(strings.saved(file.name));
}

/** Both files where the device shares JSON; else the picture is shared and the data are saved. */
async function share() {
  const picture = await pictureFile(), data = dataFile();
  const files = [picture, data];
  const both = Boolean(navigator.canShare?.({ files }));
  try {
    await navigator.share({ files: both ? files : [picture], title: strings.title });
    if (!both) save(data);
  } catch (error) {
    if (error.name !== "AbortError") files.forEach(save);
  }
}

function tell(text, wrong = false) {
  $("status").textContent = text;
  $("status").dataset.wrong = String(wrong);
  $("problem").textContent = wrong ? text : "";
}

function busy(value) {
  document.body.setAttribute("aria-busy", String(value));
  for (const id of ["photo", "file"]) $(id).disabled = value;
}

function keys(event) {
  if (!editor.mode || event.target.tagName === "INPUT") return;
  const key = event.key.toLowerCase();
  if (key === "escape") setMode(null);
  else if (key === "z") editor.undo();
  else if (!event.ctrlKey && !event.metaKey && key === "a") setMode("add");
  else if (!event.ctrlKey && !event.metaKey && key === "e") setMode("erase");
}

function wire() {
  document.documentElement.lang = strings.language;
  document.title = strings.title;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = strings[element.dataset.text];
  for (const id of ["photo", "file"]) {
    $(id).addEventListener("change", async () => {
      await open($(id).files[0]);
      $(id).value = "";
    });
  }
  $("edit").addEventListener("click", () => {
    setMode(editor.mode ? null : "add");
    if (editor.mode) $("picture").focus({ preventScroll: true });
  });
  for (const name of ["add", "erase"]) $(name).addEventListener("click", () => setMode(name));
  $("undo").addEventListener("click", () => editor.undo());
  $("reset").addEventListener("click", () => editor.reset());
  $("attention").addEventListener("click", () => showAttention($("attention").getAttribute("aria-pressed") !== "true"));
  $("save-picture").addEventListener("click", async () => save(await pictureFile()));
  $("save-data").addEventListener("click", () => save(dataFile()));
  $("share").addEventListener("click", share);
  document.addEventListener("keydown", keys);
}

async function keepOffline() {
  if (!("serviceWorker" in navigator)) {
    $("offline").textContent = strings.insecure;
    return;
  }
  const registration = await navigator.serviceWorker.register("sw.js");
  registration.addEventListener("updatefound", () => {
    const fresh = registration.installing;
    fresh.addEventListener("statechange", () => {
      if (fresh.state === "installed" && registration.active) $("offline").textContent = strings.update;
    });
  });
  await navigator.serviceWorker.ready;
  await navigator.storage?.persist?.();
  $("offline").textContent = strings.offline;
  document.body.dataset.offline = "true";
}

async function start() {
  wire();
  tell(strings.loading);
  busy(true);
  keepOffline().catch((error) => console.error(error));
  try {
    state.card = await (await fetch("model.json")).json();
    state.forward = await loadModel(state.card);
  } catch (error) {
    console.error(error);
    tell(strings.errors.model, true);
    return;
  }
  lockPage();
  tell(strings.ready);
  busy(false);
  document.body.dataset.ready = "true";
}

/** For tests and for comparisons with Python: a File or Blob to {image, answer}. */
window.busmt = { analyse: (file) => analyse(file, state.card, state.forward), isReferred };
start();
