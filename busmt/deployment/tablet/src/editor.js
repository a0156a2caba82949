// The picture on the screen, and freehand correction of its mask with undo.
import { fromRuns, toRuns } from "./mask.js";
import { attentionLayer, greyLayer, outlinePath, paint } from "./picture.js";

const UNDO_STEPS = 50;

export class Editor {
  mode = null; // null, "add" or "erase"
  image = null;
  #queued = false;

  /** `onChange` is called after the mask has changed. */
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onChange = onChange;
    canvas.addEventListener("pointerdown", (event) => this.#start(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#end());
    canvas.addEventListener("pointercancel", () => this.#end());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#fit()).observe(canvas.parentElement);
  }

  show(image, mask) {
    this.image = image;
    this.model = mask;
    this.mask = mask.slice();
    this.corrected = false;
    this.history = [];
    this.radius = Math.max(2, Math.max(image.width, image.height) / 60);
    this.pen = { x: image.width / 2, y: image.height / 2 };
    this.scene = { width: image.width, height: image.height, grey: greyLayer(image), attention: null };
    this.#changed();
    this.#fit();
  }

  setMode(mode) {
    this.mode = mode;
    this.redraw();
  }

  setAttention(attention) {
    this.scene.attention = attention && attentionLayer(attention);
    this.redraw();
  }

  undo() {
    const last = this.history.pop();
    if (last) this.#replace(fromRuns(last, this.mask.length));
  }

  reset() {
    if (!this.corrected) return;
    this.#remember();
    this.#replace(this.model.slice());
  }

  /** Once per frame, however many events ask for it. */
  redraw() {
    if (this.#queued || !this.image) return;
    this.#queued = true;
    requestAnimationFrame(() => {
      this.#queued = false;
      if (!this.scene.outline) this.scene.outline = outlinePath(this.mask, this.image.width, this.image.height);
      this.scene.pen = this.mode ? { ...this.pen, radius: this.radius } : null;
      paint(this.context, this.scene, this.canvas.width, this.canvas.height, 2.5 * devicePixelRatio);
    });
  }

  /** As large as the stage allows, sharp on every screen. */
  #fit() {
    if (!this.image) return;
    const style = getComputedStyle(this.canvas.parentElement);
    const room = (side, first, last) => this.canvas.parentElement[side] - parseFloat(style[first]) - parseFloat(style[last]);
    const across = room("clientWidth", "paddingLeft", "paddingRight") / this.image.width;
    const scale = Math.min(across, room("clientHeight", "paddingTop", "paddingBottom") / this.image.height);
    const [width, height] = [Math.max(1, this.image.width * scale), Math.max(1, this.image.height * scale)];
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    this.canvas.width = Math.round(width * devicePixelRatio);
    this.canvas.height = Math.round(height * devicePixelRatio);
    this.redraw();
  }

  #start(event) {
    if (!this.mode || !event.isPrimary) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.path = [this.#place(event)];
    this.#remember();
    this.#stroke(this.path[0], this.path[0]);
  }

  #move(event) {
    if (!this.path || !event.isPrimary) return;
    const events = event.getCoalescedEvents?.() ?? []; // all places since the last frame, where the browser tells them
    for (const place of (events.length ? events : [event]).map((single) => this.#place(single))) {
      this.#stroke(this.path.at(-1), place);
      this.path.push(place);
    }
  }

  /** A closed stroke fills what it surrounds. */
  #end() {
    if (!this.path) return;
    const [first, last] = [this.path[0], this.path.at(-1)];
    const far = this.path.some((place) => Math.hypot(place.x - first.x, place.y - first.y) > 4 * this.radius);
    if (far && Math.hypot(first.x - last.x, first.y - last.y) < 3 * this.radius) this.#fill(this.path);
    this.path = null;
    this.#changed();
  }

  /** What lies within a closed path, line by line (even-odd rule). */
  #fill(path) {
    const { width, height } = this.image, value = this.mode === "add" ? 1 : 0;
    const low = Math.max(0, Math.floor(Math.min(...path.map((place) => place.y))));
    const high = Math.min(height - 1, Math.ceil(Math.max(...path.map((place) => place.y))));
    for (let y = low; y <= high; y++) {
      const crossings = [];
      path.forEach((a, i) => {
        const b = path[(i + 1) % path.length], line = y + 0.5;
        if (a.y <= line !== b.y <= line) crossings.push(a.x + ((line - a.y) / (b.y - a.y)) * (b.x - a.x));
      });
      crossings.sort((a, b) => a - b);
      for (let i = 0; i + 1 < crossings.length; i += 2) {
        const from = Math.max(0, Math.round(crossings[i])), to = Math.min(width, Math.round(crossings[i + 1]));
        if (to > from) this.mask.fill(value, y * width + from, y * width + to);
      }
    }
  }

  #stroke(from, to) {
    const { width, height } = this.image, radius = this.radius;
    const value = this.mode === "add" ? 1 : 0;
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / (radius / 2)));
    for (let step = 0; step <= steps; step++) {
      const x0 = from.x + ((to.x - from.x) * step) / steps, y0 = from.y + ((to.y - from.y) * step) / steps;
      for (let y = Math.max(0, Math.ceil(y0 - radius)); y <= Math.min(height - 1, y0 + radius); y++) {
        for (let x = Math.max(0, Math.ceil(x0 - radius)); x <= Math.min(width - 1, x0 + radius); x++) {
          if (Math.hypot(x - x0, y - y0) <= radius) this.mask[y * width + x] = value;
        }
      }
    }
    this.pen = to;
    this.scene.outline = null;
    this.redraw();
  }

  #key(event) {
    if (!this.mode) return;
    const step = event.shiftKey ? 1 : this.radius;
    const shift = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!shift && event.key !== " ") return;
    event.preventDefault();
    if (shift) {
      const within = (value, side) => Math.min(Math.max(value, 0), side - 1);
      this.pen = { x: within(this.pen.x + shift[0], this.image.width), y: within(this.pen.y + shift[1], this.image.height) };
      this.redraw();
    } else if (!this.path) {
      this.#remember();
      this.#stroke(this.pen, this.pen);
      this.#changed();
    }
  }

  #place(event) {
    const frame = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - frame.left) * this.image.width) / frame.width,
      y: ((event.clientY - frame.top) * this.image.height) / frame.height,
    };
  }

  #remember() {
    this.history.push(toRuns(this.mask));
    if (this.history.length > UNDO_STEPS) this.history.shift();
  }

  #replace(mask) {
    this.mask = mask;
    this.#changed();
  }

  #changed() {
    this.corrected = this.mask.some((value, i) => value !== this.model[i]);
    this.scene.outline = null;
    this.redraw();
    this.onChange();
  }
}
