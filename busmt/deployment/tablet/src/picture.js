// The picture with outline and attention map, on the screen and in the saved file.
import { measure } from "./mask.js";

const OUTLINE = "#e69f00", ATTENTION = [86, 180, 233]; // of the colour-blind-safe palette of Okabe and Ito
const MAX_DRAWN = 4_000_000; // pixels; larger photos are thinned out for the screen

/** Grey levels as a canvas, drawn once per image. */
export function greyLayer({ grey, width, height }) {
  const step = Math.ceil(Math.sqrt((width * height) / MAX_DRAWN));
  const [w, h] = [Math.ceil(width / step), Math.ceil(height / step)];
  return layer(w, h, (pixel, i) => {
    const level = grey[Math.floor(i / w) * step * width + (i % w) * step];
    pixel.fill(level, 0, 3);
    pixel[3] = 255;
  });
}

/** Attention between its least and largest value in this image, as a transparent canvas; the padding is cut off. */
export function attentionLayer({ map, box }) {
  const value = (i) => map[(box.top + Math.floor(i / box.innerWidth)) * box.size + box.left + (i % box.innerWidth)];
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < box.innerWidth * box.innerHeight; i++) {
    low = Math.min(low, value(i));
    high = Math.max(high, value(i));
  }
  return layer(box.innerWidth, box.innerHeight, (pixel, i) => {
    pixel.set(ATTENTION);
    pixel[3] = high > low ? (180 * (value(i) - low)) / (high - low) : 0;
  });
}

function layer(width, height, fill) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) fill(pixels.data.subarray(4 * i, 4 * i + 4), i);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** The edge between lesion and tissue, in image coordinates: the tissue on both sides stays visible. */
export function outlinePath(mask, width, height) {
  const path = new Path2D();
  const frame = measure(mask, width);
  if (!frame) return path;
  const at = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? mask[y * width + x] : 0);
  const right = frame.left + frame.width, bottom = frame.top + frame.height;
  for (let y = frame.top; y <= bottom; y++) {
    for (let x = frame.left; x < right; x++) {
      const start = x;
      while (x < right && at(x, y - 1) !== at(x, y)) x++;
      if (x > start) {
        path.moveTo(start, y);
        path.lineTo(x, y);
      }
    }
  }
  for (let x = frame.left; x <= right; x++) {
    for (let y = frame.top; y < bottom; y++) {
      const start = y;
      while (y < bottom && at(x - 1, y) !== at(x, y)) y++;
      if (y > start) {
        path.moveTo(x, start);
        path.lineTo(x, y);
      }
    }
  }
  return path;
}

/** Draw everything onto a canvas of any size; `unit` is the width of the outline in its pixels. */
export function paint(context, scene, width, height, unit) {
  const scale = width / scene.width;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.drawImage(scene.grey, 0, 0, width, height);
  if (scene.attention) context.drawImage(scene.attention, 0, 0, width, height);
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.lineCap = "round";
  stroke(context, scene.outline, "#000a", (2 * unit) / scale);
  stroke(context, scene.outline, OUTLINE, unit / scale);
  if (!scene.pen) return;
  const ring = new Path2D();
  ring.arc(scene.pen.x, scene.pen.y, scene.pen.radius, 0, 2 * Math.PI);
  stroke(context, ring, "#000a", (2 * unit) / scale);
  stroke(context, ring, "#fff", unit / scale);
}

function stroke(context, path, style, width) {
  context.lineWidth = width;
  context.strokeStyle = style;
  context.stroke(path);
}

/** The picture in its own size as PNG, with lines of text on a strip under it. */
export async function savedPicture(scene, lines) {
  const scale = Math.min(1, Math.sqrt((2 * MAX_DRAWN) / (scene.width * scene.height)));
  const [width, height] = [Math.round(scene.width * scale), Math.round(scene.height * scale)];
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const longest = Math.max(...lines.map((line) => line.length));
  const text = Math.max(9, Math.min(width / 24, (1.7 * width) / longest));
  Object.assign(canvas, { width, height: height + Math.ceil(1.5 * text * lines.length + text / 2) });
  context.fillRect(0, 0, canvas.width, canvas.height);
  paint(context, { ...scene, pen: null }, width, height, Math.max(1, Math.round(Math.max(width, height) / 300)));
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#fff";
  context.font = `${text}px system-ui, sans-serif`;
  lines.forEach((line, i) => context.fillText(line, text / 2, height + 1.5 * text * (i + 0.9), width - text));
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
