// Files to grey images: PNG and JPEG through the browser's decoder, DICOM through dicom-parser.
import dicomParser from "dicom-parser";
import { MAX_PIXELS, MIN_SIDE, toGrey } from "./image.js";
import { strings } from "./strings.js";

const UNCOMPRESSED = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"];

/** {name, grey, height, width, spacing}: grey levels 0..255; spacing {row, column} in mm, or null. */
export async function readImage(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const image = isDicom(bytes) ? readDicom(bytes, file.name) : await readPicture(file);
  if (Math.min(image.height, image.width) < MIN_SIDE) throw new Error(strings.errors.small(file.name));
  return { name: file.name, ...image };
}

function isDicom(bytes) {
  return String.fromCharCode(...bytes.subarray(128, 132)) === "DICM";
}

async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(strings.errors.unreadable(file.name));
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(strings.errors.large(file.name));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000"; // what is transparent is black, as in training
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { grey: toGrey(context.getImageData(0, 0, width, height).data), height, width, spacing: null };
}

export function readDicom(bytes, name) {
  let data;
  try {
    data = dicomParser.parseDicom(bytes);
  } catch {
    throw new Error(strings.errors.unreadable(name));
  }
  if (!UNCOMPRESSED.includes(data.string("x00020010") ?? UNCOMPRESSED[0])) {
    throw new Error(strings.errors.compressed(name));
  }
  if (Number(data.string("x00280008") ?? 1) > 1) throw new Error(strings.errors.frames(name));
  const height = data.uint16("x00280010"), width = data.uint16("x00280011");
  const pixels = data.elements.x7fe00010;
  const samples = data.uint16("x00280002") ?? 1;
  const bits = data.uint16("x00280100") ?? 8;
  if (!height || !width || !pixels || pixels.length < (height * width * samples * bits) / 8) {
    throw new Error(strings.errors.unreadable(name));
  }
  if (height * width > MAX_PIXELS) throw new Error(strings.errors.large(name));
  const raw = bytes.subarray(pixels.dataOffset, pixels.dataOffset + pixels.length);
  const grey = samples === 3 ? fromColour(raw, data, height * width) : fromLevels(raw, data, bits, height * width);
  if (data.string("x00280004") === "MONOCHROME1") grey.forEach((value, i) => (grey[i] = 255 - value));
  return { grey, height, width, spacing: readSpacing(data) };
}

function fromColour(raw, data, count) {
  const planes = data.uint16("x00280006") === 1;
  const luma = (data.string("x00280004") ?? "").startsWith("YBR");
  const rgba = new Uint8ClampedArray(4 * count);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) {
      const channel = luma ? 0 : c;
      rgba[4 * i + c] = raw[planes ? channel * count + i : 3 * i + channel];
    }
  }
  return toGrey(rgba);
}

/** Stored values to 0..255 through slope, intercept and the first window, or the image's own range. */
function fromLevels(raw, data, bits, count) {
  const number = (tag, fallback) => data.floatString(tag) ?? fallback;
  if (bits === 8 && data.floatString("x00281050") === undefined) return Uint8Array.from(raw.subarray(0, count));
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  const signed = data.uint16("x00280103") === 1;
  const read = bits === 8 ? (i) => raw[i] : (i) => (signed ? view.getInt16(2 * i, true) : view.getUint16(2 * i, true));
  const slope = number("x00281053", 1), intercept = number("x00281052", 0);
  const values = Float32Array.from({ length: count }, (_, i) => slope * read(i) + intercept);
  let centre = data.floatString("x00281050"), width = data.floatString("x00281051");
  if (centre === undefined || !width) {
    const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    centre = (low + high) / 2 + 0.5;
    width = high - low + 1;
  }
  // DICOM PS3.3, C.11.2.1.2.1
  const level = (value) => ((value - (centre - 0.5)) / Math.max(width - 1, 1) + 0.5) * 255;
  return Uint8Array.from(values, (value) => Math.min(255, Math.max(0, Math.round(level(value)))));
}

function readSpacing(data) {
  const text = data.string("x00280030") ?? data.string("x00181164");
  if (text) {
    const [row, column] = text.split("\\").map(Number);
    return row > 0 && column > 0 ? { row, column } : null;
  }
  const region = data.elements.x00186011?.items?.[0]?.dataSet; // ultrasound regions; 3 means centimetres
  if (region?.uint16("x00186024") !== 3) return null;
  const column = 10 * Math.abs(region.double("x0018602c")), row = 10 * Math.abs(region.double("x0018602e"));
  return row > 0 && column > 0 ? { row, column } : null;
}
