// PNG to grey levels in JavaScript: browsers' own decoders may apply gamma, colour profiles and premultiplied alpha.
// PNG specification, third edition (W3C, 2025); the compressed part is unpacked by the browser's DecompressionStream.
import { toGrey } from "./image.js";

const GREY = 0, COLOUR = 2, PALETTE = 3;
const DEPTHS = { [GREY]: [1, 2, 4, 8], [COLOUR]: [8], [PALETTE]: [1, 2, 4, 8], 4: [8], 6: [8] };
const CHANNELS = { [GREY]: 1, [COLOUR]: 3, [PALETTE]: 1, 4: 2, 6: 4 };
const WHOLE = [[0, 0, 1, 1]];
const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]]; // x, y, steps

/** Size, bit depth and frames from the chunks, before anything is unpacked; throws where a chunk is damaged. */
export function pngHeader(bytes) {
  const chunks = readChunks(bytes);
  const head = view(chunks.find((chunk) => chunk.kind === "IHDR").data);
  const [depth, kind, , , interlaced] = [8, 9, 10, 11, 12].map((at) => head.getUint8(at));
  const animation = chunks.find((chunk) => chunk.kind === "acTL");
  const frames = animation ? view(animation.data).getUint32(0) : 1;
  return { width: head.getUint32(0), height: head.getUint32(4), depth, kind, interlaced, frames, chunks };
}

/** Grey levels 0..255 of what `pngHeader` returned; throws where the file is damaged. */
export async function readPng({ width, height, depth, kind, interlaced, chunks }) {
  if (!DEPTHS[kind]?.includes(depth)) throw new Error("no such kind of pixels");
  const channels = CHANNELS[kind];
  const passes = (interlaced ? ADAM7 : WHOLE).map(([x, y, right, down]) => {
    const columns = Math.ceil((width - x) / right), rows = Math.ceil((height - y) / down);
    const stride = Math.ceil((columns * channels * depth) / 8);
    return { x, y, right, down, columns, rows, stride, length: columns < 1 || rows < 1 ? 0 : rows * (stride + 1) };
  });
  const packed = chunks.filter((chunk) => chunk.kind === "IDAT").map((chunk) => chunk.data);
  const data = await inflate(packed, passes.reduce((sum, { length }) => sum + length, 0));
  const samples = new Uint8Array(width * height * channels);
  let at = 0;
  for (const { x, y, right, down, columns, rows, stride, length } of passes) {
    if (!length) continue;
    const lines = unfilter(data.subarray(at, at + length), rows, stride, Math.ceil((channels * depth) / 8));
    at += length;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const place = ((y + row * down) * width + x + column * right) * channels;
        for (let c = 0; c < channels; c++) samples[place + c] = sample(lines, row * stride, column * channels + c, depth);
      }
    }
  }
  const transparent = chunks.some((chunk) => chunk.kind === "tRNS");
  return kind === GREY && !transparent ? samples.map((value) => value * scale(depth)) : flatten(samples, depth, kind, chunks);
}

/** The first `length` bytes, however many more there are; throws where there are fewer, or they are damaged. */
async function inflate(packed, length) {
  const reader = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const parts = [];
  let size = 0;
  while (size <= length) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
  }
  await reader.cancel();
  if (size < length) throw new Error("truncated");
  return new Uint8Array(await new Blob(parts).arrayBuffer()).subarray(0, length);
}

/** {kind, data} up to the end marker, each with the right checksum. */
function readChunks(bytes) {
  const chunks = [], whole = view(bytes);
  for (let at = 8; chunks.at(-1)?.kind !== "IEND"; ) {
    const length = whole.getUint32(at);
    const body = bytes.subarray(at + 4, at + 8 + length);
    if (whole.getUint32(at + 8 + length) !== crc(body)) throw new Error("damaged");
    chunks.push({ kind: String.fromCharCode(...body.subarray(0, 4)), data: body.subarray(4) });
    at += 12 + length;
  }
  return chunks;
}

/** Undo the prediction of each byte from its neighbours `left` bytes before and in the line above. */
function unfilter(data, rows, stride, left) {
  const lines = new Uint8Array(rows * stride);
  for (let row = 0; row < rows; row++) {
    const filter = data[row * (stride + 1)], source = row * (stride + 1) + 1, start = row * stride;
    if (filter > 4) throw new Error("unknown filter");
    for (let i = 0; i < stride; i++) {
      const a = i < left ? 0 : lines[start + i - left];
      const b = row ? lines[start + i - stride] : 0;
      const c = row && i >= left ? lines[start + i - stride - left] : 0;
      const guess = filter === 0 ? 0 : filter === 1 ? a : filter === 2 ? b : filter === 3 ? (a + b) >> 1 : paeth(a, b, c);
      lines[start + i] = data[source + i] + guess;
    }
  }
  return lines;
}

function paeth(a, b, c) {
  const toA = Math.abs(b - c), toB = Math.abs(a - c), toC = Math.abs(a + b - 2 * c);
  return toA <= toB && toA <= toC ? a : toB <= toC ? b : c;
}

function sample(lines, start, index, depth) {
  if (depth === 8) return lines[start + index];
  const bit = index * depth;
  return (lines[start + (bit >> 3)] >> (8 - depth - (bit & 7))) & (2 ** depth - 1);
}

const scale = (depth) => 255 / (2 ** depth - 1);

/** Colours, palettes and transparency to grey. */
function flatten(samples, depth, kind, chunks) {
  const channels = CHANNELS[kind], count = samples.length / channels;
  const part = (name) => chunks.find((chunk) => chunk.kind === name)?.data;
  const palette = part("PLTE"), hidden = part("tRNS");
  const key = hidden && kind !== PALETTE ? Array.from({ length: channels }, (_, c) => view(hidden).getUint16(2 * c)) : null;
  const rgba = new Uint8Array(4 * count);
  for (let i = 0, at = 0; i < count; i++, at += channels) {
    if (kind === PALETTE) {
      const entry = 3 * samples[at];
      if (entry >= palette.length) throw new Error("no such colour");
      rgba.set(palette.subarray(entry, entry + 3), 4 * i);
      rgba[4 * i + 3] = hidden?.[samples[at]] ?? 255;
    } else {
      for (let c = 0; c < 3; c++) rgba[4 * i + c] = samples[at + (channels < 3 ? 0 : c)] * scale(depth);
      const seen = channels % 2 ? !key?.every((value, c) => value === samples[at + c]) : null;
      rgba[4 * i + 3] = seen === null ? samples[at + channels - 1] : seen ? 255 : 0;
    }
  }
  return toGrey(rgba);
}

const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = CRC[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
