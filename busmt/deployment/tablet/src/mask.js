// Masks (H x W, 0 or 1): their size and their short form.

/** Area and bounding box, pixels; null where the mask is empty. */
export function measure(mask, width) {
  let area = 0, left = width, right = -1, top = -1, bottom = -1;
  for (let i = mask.indexOf(1); i >= 0 && i < mask.length; i++) {
    if (!mask[i]) continue;
    const x = i % width;
    area++;
    if (x < left) left = x;
    if (x > right) right = x;
    bottom = (i - x) / width;
    if (top < 0) top = bottom;
  }
  return area ? { area, left, top, width: right - left + 1, height: bottom - top + 1 } : null;
}

/** Connected parts (8 neighbours) with area and bounding box, pixels; the largest first. */
export function parts(mask, width) {
  const left = mask.slice(), found = [];
  for (let seed = left.indexOf(1); seed >= 0; seed = left.indexOf(1, seed + 1)) {
    const part = { area: 0, x: [width, -1], y: [Infinity, -1] };
    const queue = [seed];
    left[seed] = 0;
    while (queue.length) {
      const at = queue.pop(), x = at % width, y = (at - x) / width;
      part.area++;
      part.x = [Math.min(part.x[0], x), Math.max(part.x[1], x)];
      part.y = [Math.min(part.y[0], y), Math.max(part.y[1], y)];
      for (let dy = -1; dy <= 1; dy++) {
        for (let dx = -1; dx <= 1; dx++) {
          const next = at + dy * width + dx;
          if (x + dx < 0 || x + dx >= width || !left[next]) continue;
          left[next] = 0;
          queue.push(next);
        }
      }
    }
    found.push(part);
  }
  const frame = ({ area, x, y }) => ({ area, left: x[0], top: y[0], width: x[1] - x[0] + 1, height: y[1] - y[0] + 1 });
  return found.map(frame).sort((a, b) => b.area - a.area);
}

/** Run lengths in row order, background first. */
export function toRuns(mask) {
  const runs = [];
  let value = 0, length = 0;
  for (const pixel of mask) {
    if (pixel !== value) {
      runs.push(length);
      value = pixel;
      length = 0;
    }
    length++;
  }
  runs.push(length);
  return runs;
}

/** The mask of `count` pixels with these run lengths. */
export function fromRuns(runs, count) {
  const mask = new Uint8Array(count);
  let at = 0;
  runs.forEach((length, i) => {
    if (i % 2) mask.fill(1, at, at + length);
    at += length;
  });
  return mask;
}
