// PNG to grey levels in JavaScript: a browser's own decoder may apply gamma, colour profiles and premultiplied alpha.
import { decode } from "fast-png";
import { toGrey } from "./image.js";

/** Size and bit depth from the header, before anything is unpacked. */
export function pngHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { width: view.getUint32(16), height: view.getUint32(20), depth: bytes[24] };
}

/** {grey, height, width}; throws where the file is damaged. */
export function readPng(bytes) {
  const png = decode(bytes, { checkCrc: true });
  const { width, height, palette } = png;
  const samples = unpack(png);
  if (samples.length < width * height * png.channels) throw new Error("truncated");
  const key = palette ? null : png.transparency?.length ? png.transparency : null;
  if (png.channels === 1 && !palette && !key) {
    return { grey: Uint8Array.from(samples, (value) => value * scale(png.depth)), height, width };
  }
  const rgba = new Uint8Array(4 * width * height);
  for (let i = 0; i < width * height; i++) rgba.set(colour(samples, i * png.channels, png, palette, key), 4 * i);
  return { grey: toGrey(rgba), height, width };
}

function colour(samples, at, { channels, depth }, palette, key) {
  if (palette) {
    const entry = palette[samples[at]];
    if (!entry) throw new Error("no such colour");
    return [entry[0], entry[1], entry[2], entry[3] ?? 255];
  }
  const bright = channels < 3;
  const levels = bright ? [samples[at], samples[at], samples[at]] : [samples[at], samples[at + 1], samples[at + 2]];
  const hidden = key && levels.slice(0, key.length).every((value, c) => value === key[c]);
  const alpha = channels % 2 ? (hidden ? 0 : 255) : samples[at + channels - 1];
  return [...levels.map((value) => value * scale(depth)), alpha];
}

const scale = (depth) => (depth < 8 ? 255 / (2 ** depth - 1) : 1);

/** One number per sample; rows of 1, 2 and 4 bits begin at a byte. */
function unpack({ data, depth, width, height, channels }) {
  if (depth === 8) return data;
  const stride = Math.ceil((width * channels * depth) / 8), mask = 2 ** depth - 1;
  if (data.length < stride * height) throw new Error("truncated");
  const samples = new Uint8Array(width * height * channels);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width * channels; x++, i++) {
      const bit = x * depth;
      samples[i] = (data[y * stride + (bit >> 3)] >> (8 - depth - (bit & 7))) & mask;
    }
  }
  return samples;
}
