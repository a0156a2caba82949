// Files to grey images: PNG and DICOM here, JPEG (and what else the browser knows) through the browser's decoder.
import { isDicom, readDicom } from "./dicom.js";
import { MAX_PIXELS, MIN_SIDE, toGrey } from "./image.js";
import { pngHeader, readPng } from "./png.js";
import { strings } from "./strings.js";
import { Unusable } from "./unusable.js";

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const STRIP = 4_000_000; // pixels that are drawn at once: iPads limit the size of a canvas

/** {name, grey, height, width, spacing}: grey levels 0..255; spacing {row, column} in mm, or null. */
export async function readImage(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const image = await decode(bytes, file);
  if (Math.min(image.height, image.width) < MIN_SIDE) throw new Unusable(strings.errors.small(file.name));
  return { spacing: null, ...image, name: file.name };
}

async function decode(bytes, file) {
  if (isDicom(bytes)) return readDicom(bytes, file.name);
  if (PNG.every((value, i) => bytes[i] === value)) return readPortable(bytes, file.name);
  return readPicture(bytes, file);
}

async function readPortable(bytes, name) {
  let header;
  try {
    header = pngHeader(bytes);
  } catch {
    throw new Unusable(strings.errors.damaged(name));
  }
  const { width, height } = header;
  if (header.depth > 8) throw new Unusable(strings.errors.deep(name));
  if (header.frames > 1) throw new Unusable(strings.errors.frames(name));
  if (width * height > MAX_PIXELS) throw new Unusable(strings.errors.large(name));
  try {
    return { grey: await readPng(header), height, width };
  } catch {
    throw new Unusable(strings.errors.damaged(name));
  }
}

async function readPicture(bytes, file) {
  const jpeg = bytes[0] === 0xff && bytes[1] === 0xd8;
  if (jpeg && !endsAsJpeg(bytes)) throw new Unusable(strings.errors.damaged(file.name));
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Unusable((jpeg ? strings.errors.damaged : strings.errors.unreadable)(file.name));
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Unusable(strings.errors.large(file.name));
  const grey = new Uint8Array(width * height);
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height: rows });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += rows) {
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const strip = context.getImageData(0, 0, width, Math.min(rows, height - top));
    grey.set(toGrey(strip.data), top * width);
  }
  bitmap.close();
  return { grey, height, width };
}

/** Browsers show the rest of a torn JPEG as grey; its end marker tells (some devices pad the file behind it). */
function endsAsJpeg(bytes) {
  for (let i = bytes.length - 2; i > Math.max(0, bytes.length - 4096); i--) {
    if (bytes[i] === 0xff && bytes[i + 1] === 0xd9) return true;
  }
  return false;
}
