// Uncompressed DICOM images of one frame: grey levels as a viewer shows them, and the size of a pixel.
import dicomParser from "dicom-parser";
import { MAX_PIXELS, toGrey } from "./image.js";
import { strings } from "./strings.js";
import { Unusable } from "./unusable.js";

const IMPLICIT = "1.2.840.10008.1.2", EXPLICIT = "1.2.840.10008.1.2.1";
const CENTIMETRES = 3, TISSUE = 1;

export const isDicom = (bytes) => String.fromCharCode(...bytes.subarray(128, 132)) === "DICM";

/** {grey, height, width, spacing}; spacing {row, column} in mm, or null. */
export function readDicom(bytes, name) {
  try {
    return decode(bytes, name);
  } catch (error) {
    if (error instanceof Unusable) throw error;
    throw new Unusable(strings.errors.damaged(name)); // dicom-parser throws strings and objects of its own
  }
}

function decode(bytes, name) {
  const syntax = dicomParser.readPart10Header(bytes).string("x00020010") ?? IMPLICIT;
  if (syntax !== IMPLICIT && syntax !== EXPLICIT) throw new Unusable(strings.errors.compressed(name));
  const data = dicomParser.parseDicom(bytes);
  const bits = data.uint16("x00280100"), samples = data.uint16("x00280002") ?? 1;
  const photometric = data.string("x00280004") ?? "MONOCHROME2";
  const height = data.uint16("x00280010"), width = data.uint16("x00280011");
  const stored = data.elements.x7fe00010;
  if (!height || !width || !stored) throw new Unusable(strings.errors.unreadable(name));
  if (stored.encapsulatedPixelData) throw new Unusable(strings.errors.compressed(name));
  if (Number(data.string("x00280008") ?? 1) > 1) throw new Unusable(strings.errors.frames(name));
  const grey = samples === 1 && photometric.startsWith("MONOCHROME") && (bits === 8 || bits === 16);
  const coloured = samples === 3 && bits === 8 && (photometric === "RGB" || photometric === "YBR_FULL");
  if (!grey && !coloured) throw new Unusable(strings.errors.pixels(name));
  if (height * width > MAX_PIXELS) throw new Unusable(strings.errors.large(name));
  const raw = bytes.subarray(stored.dataOffset, stored.dataOffset + stored.length);
  if (raw.length < (height * width * samples * bits) / 8) throw new Error("truncated");
  const levels = grey ? fromLevels(raw, data, bits, height * width) : fromColour(raw, data, photometric, height * width);
  if (photometric === "MONOCHROME1") for (let i = 0; i < levels.length; i++) levels[i] = 255 - levels[i];
  return { grey: levels, height, width, spacing: readSpacing(data) };
}

function fromColour(raw, data, photometric, count) {
  const planes = data.uint16("x00280006") === 1;
  const rgba = new Uint8Array(4 * count).fill(255);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) {
      const channel = photometric === "YBR_FULL" ? 0 : c; // its first channel is the brightness
      rgba[4 * i + c] = raw[planes ? channel * count + i : 3 * i + channel];
    }
  }
  return toGrey(rgba);
}

/** Stored values to 0..255 through slope, intercept and the first window; without one, 8 bits stay and 16 are spread. */
function fromLevels(raw, data, bits, count) {
  let centre = data.floatString("x00281050"), width = data.floatString("x00281051");
  const windowed = centre !== undefined && width > 0;
  if (bits === 8 && !windowed) return raw.slice(0, count);
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  const used = data.uint16("x00280101") ?? bits;
  if (used < 1 || used > bits) throw new Error("more bits used than stored");
  const signed = data.uint16("x00280103") === 1, spare = 32 - used;
  const slope = data.floatString("x00281053") ?? 1, intercept = data.floatString("x00281052") ?? 0;
  const values = new Float32Array(count);
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < count; i++) {
    const word = (bits === 8 ? raw[i] : view.getUint16(2 * i, true)) << spare; // bits beyond those stored are no grey
    values[i] = slope * (signed ? word >> spare : word >>> spare) + intercept;
    low = Math.min(low, values[i]);
    high = Math.max(high, values[i]);
  }
  if (!Number.isFinite(high - low) || (windowed && !Number.isFinite(centre + width))) throw new Error("not a number");
  const kind = windowed ? (data.string("x00281056") ?? "LINEAR") : "LINEAR_EXACT";
  if (!windowed) [centre, width] = [(low + high) / 2, Math.max(high - low, 1)];
  const share = WINDOWS[kind] ?? WINDOWS.LINEAR;
  return Uint8Array.from(values, (value) => Math.round(255 * Math.min(1, Math.max(0, share(value, centre, width)))));
}

// DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3
const WINDOWS = {
  LINEAR: (value, centre, width) => (width > 1 ? (value - (centre - 0.5)) / (width - 1) + 0.5 : Number(value > centre - 0.5)),
  LINEAR_EXACT: (value, centre, width) => (value - centre) / width + 0.5,
  SIGMOID: (value, centre, width) => 1 / (1 + Math.exp((-4 * (value - centre)) / width)),
};

function readSpacing(data) {
  const text = data.string("x00280030");
  if (text) {
    const [row, column] = text.split("\\").map(Number);
    return row > 0 && column > 0 ? { row, column } : null;
  }
  const regions = (data.elements.x00186011?.items ?? []).map((item) => item.dataSet); // calibrated parts of the picture
  const region = regions.find((part) => part.uint16("x00186012") === TISSUE && part.uint16("x00186024") === CENTIMETRES);
  if (!region) return null;
  const column = 10 * Math.abs(region.double("x0018602c")), row = 10 * Math.abs(region.double("x0018602e"));
  return row > 0 && column > 0 ? { row, column } : null;
}
