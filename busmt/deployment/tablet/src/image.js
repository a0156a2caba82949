// From grey pixels to the network's input and back: the same arithmetic as busmt/data/images.py.

export const MIN_SIDE = 16;
export const MAX_PIXELS = 50_000_000;

/** Colour to grey as the training pipeline's PNG decoder does it: whole-number weights, cut off; grey stays as it is. */
export const luma = (r, g, b) => (r === g && g === b ? r : (9797 * r + 19234 * g + 3737 * b) >> 15);

/** RGBA bytes to grey levels 0..255; what is transparent becomes black, as in training. */
export function toGrey(rgba) {
  const grey = new Uint8Array(rgba.length / 4);
  for (let i = 0, j = 0; i < grey.length; i++, j += 4) {
    const a = rgba[j + 3];
    const level = a === 255 ? (c) => rgba[j + c] : (c) => Math.round((rgba[j + c] * a) / 255);
    grey[i] = luma(level(0), level(1), level(2));
  }
  return grey;
}

/** Where an image lies in the square: aspect kept, centred. */
export function letterbox(height, width, size) {
  const longer = Math.max(height, width);
  const inner = (side) => Math.max(1, Math.floor((2 * side * size + longer) / (2 * longer)));
  const box = { height, width, size, innerHeight: inner(height), innerWidth: inner(width) };
  box.top = Math.floor((size - box.innerHeight) / 2);
  box.left = Math.floor((size - box.innerWidth) / 2);
  return box;
}

/** Grey levels (H x W) to the network's input (S x S), 0..1: bilinear with antialiasing, zero around it. */
export function toInput(grey, box) {
  const across = weights(box.width, box.innerWidth);
  const down = weights(box.height, box.innerHeight);
  const rows = new Float32Array(box.height * box.innerWidth);
  for (let y = 0; y < box.height; y++) {
    for (let x = 0; x < box.innerWidth; x++) {
      const { first, values } = across[x];
      let sum = 0;
      for (let k = 0; k < values.length; k++) sum += grey[y * box.width + first + k] * values[k];
      rows[y * box.innerWidth + x] = sum / 255;
    }
  }
  const square = new Float32Array(box.size * box.size);
  for (let y = 0; y < box.innerHeight; y++) {
    const { first, values } = down[y];
    for (let x = 0; x < box.innerWidth; x++) {
      let sum = 0;
      for (let k = 0; k < values.length; k++) sum += rows[(first + k) * box.innerWidth + x] * values[k];
      square[(box.top + y) * box.size + box.left + x] = sum;
    }
  }
  return square;
}

/** Triangle filter, as wide as the reduction; at the border the weights are normalised again. */
function weights(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.ceil(centre - reach - 0.5));
    const last = Math.min(from - 1, Math.floor(centre + reach - 0.5));
    const values = [];
    for (let i = first; i <= last; i++) values.push(Math.max(0, 1 - Math.abs(i + 0.5 - centre) / reach));
    const total = values.reduce((a, b) => a + b, 0);
    return { first, values: values.map((value) => value / total) };
  });
}

/** Probability map (S x S) back to the image's grid (H x W), bilinear; the padding is cut off. */
export function restore(map, box) {
  const across = places(box.innerWidth, box.width), down = places(box.innerHeight, box.height);
  const result = new Float32Array(box.height * box.width);
  for (let y = 0; y < box.height; y++) {
    const v = down[y];
    const upper = (box.top + v.low) * box.size + box.left, lower = (box.top + v.high) * box.size + box.left;
    for (let x = 0; x < box.width; x++) {
      const u = across[x];
      const above = map[upper + u.low] * (1 - u.share) + map[upper + u.high] * u.share;
      const below = map[lower + u.low] * (1 - u.share) + map[lower + u.high] * u.share;
      result[y * box.width + x] = above * (1 - v.share) + below * v.share;
    }
  }
  return result;
}

function places(from, to) {
  return Array.from({ length: to }, (_, i) => {
    const at = Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
    const low = Math.floor(at);
    return { low, high: Math.min(low + 1, from - 1), share: at - low };
  });
}

/** Mask (H x W, 0 or 1); empty exactly where the map is nowhere above the threshold. */
export function restoreMask(map, box, threshold) {
  const mask = Uint8Array.from(restore(map, box), (value) => (value > threshold ? 1 : 0));
  if (mask.includes(1)) return mask;
  let peak = 0;
  for (let i = 1; i < map.length; i++) if (map[i] > map[peak]) peak = i;
  if (map[peak] > threshold) {
    const place = (at, start, inner, side) =>
      Math.min(Math.max(Math.floor(((at - start + 0.5) * side) / inner), 0), side - 1);
    const row = place(Math.floor(peak / box.size), box.top, box.innerHeight, box.height);
    mask[row * box.width + place(peak % box.size, box.left, box.innerWidth, box.width)] = 1;
  }
  return mask;
}
