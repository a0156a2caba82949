// The picture with its outline, and freehand correction of the mask with undo.

const OUTLINE = "#e69f00"; // orange of the colour-blind-safe palette of Okabe and Ito
const UNDO_STEPS = 30;

export class Editor {
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onChange = onChange;
    this.mode = null; // null, "add" or "erase"
    this.pen = null;
    this.image = null;
    canvas.addEventListener("pointerdown", (event) => this.#start(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#end());
    canvas.addEventListener("pointercancel", () => this.#end());
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  show(image, mask) {
    this.image = image;
    this.canvas.width = image.width;
    this.canvas.height = image.height;
    this.model = mask;
    this.mask = mask.slice();
    this.history = [];
    this.attention = null;
    this.pen = { x: image.width >> 1, y: image.height >> 1 };
    this.draw();
  }

  get corrected() {
    return this.mask.some((value, i) => value !== this.model[i]);
  }

  setAttention(map) {
    this.attention = map;
    this.draw();
  }

  undo() {
    const last = this.history.pop();
    if (last) this.#replace(last);
  }

  reset() {
    if (!this.corrected) return;
    this.#remember();
    this.#replace(this.model.slice());
  }

  draw() {
    const { width, height, grey } = this.image;
    const pixels = this.context.createImageData(width, height);
    for (let i = 0; i < grey.length; i++) {
      const heat = this.attention ? this.attention[i] : 0;
      pixels.data[4 * i] = grey[i] * (1 - 0.6 * heat) + 86 * 0.6 * heat;
      pixels.data[4 * i + 1] = grey[i] * (1 - 0.6 * heat) + 180 * 0.6 * heat;
      pixels.data[4 * i + 2] = grey[i] * (1 - 0.6 * heat) + 233 * 0.6 * heat;
      pixels.data[4 * i + 3] = 255;
    }
    this.context.putImageData(pixels, 0, 0);
    this.#outline(Math.max(2, Math.round(Math.max(width, height) / 250)));
    if (this.mode) this.#drawPen();
  }

  /** Edges between lesion and tissue, so that the tissue on both sides stays visible. */
  #outline(thickness) {
    const { width, height } = this.image;
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && this.mask[y * width + x];
    this.context.beginPath();
    for (let y = 0; y <= height; y++) {
      for (let x = 0; x <= width; x++) {
        if (y < height && inside(x - 1, y) !== inside(x, y) && (inside(x - 1, y) || inside(x, y))) {
          this.context.moveTo(x, y);
          this.context.lineTo(x, y + 1);
        }
        if (x < width && inside(x, y - 1) !== inside(x, y) && (inside(x, y - 1) || inside(x, y))) {
          this.context.moveTo(x, y);
          this.context.lineTo(x + 1, y);
        }
      }
    }
    this.context.lineWidth = thickness;
    this.context.lineCap = "round";
    this.context.strokeStyle = OUTLINE;
    this.context.stroke();
  }

  #drawPen() {
    this.context.beginPath();
    this.context.arc(this.pen.x, this.pen.y, this.#radius(), 0, 2 * Math.PI);
    this.context.lineWidth = 2;
    this.context.strokeStyle = "#fff";
    this.context.stroke();
  }

  #radius() {
    return Math.max(3, Math.max(this.image.width, this.image.height) / 60);
  }

  #start(event) {
    if (!this.mode || !this.image) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.path = [this.#place(event)];
    this.#remember();
    this.#stroke(this.path[0], this.path[0]);
  }

  #move(event) {
    if (!this.path) return;
    const place = this.#place(event);
    this.#stroke(this.path.at(-1), place);
    this.path.push(place);
  }

  /** A closed stroke that adds fills what it surrounds. */
  #end() {
    if (!this.path) return;
    const [first, last] = [this.path[0], this.path.at(-1)];
    if (this.mode === "add" && this.path.length > 8 && Math.hypot(first.x - last.x, first.y - last.y) < 4 * this.#radius()) {
      this.#fill(this.path);
    }
    this.path = null;
    this.onChange();
  }

  #fill(path) {
    const { width, height } = this.image;
    const layer = new OffscreenCanvas(width, height).getContext("2d");
    layer.beginPath();
    path.forEach((place) => layer.lineTo(place.x, place.y));
    layer.closePath();
    layer.fill();
    const { data } = layer.getImageData(0, 0, width, height);
    for (let i = 0; i < this.mask.length; i++) if (data[4 * i + 3] > 127) this.mask[i] = 1;
    this.draw();
  }

  #stroke(from, to) {
    const { width, height } = this.image;
    const radius = this.#radius(), value = this.mode === "add" ? 1 : 0;
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
    this.draw();
  }

  #key(event) {
    if (!this.mode || !this.image) return;
    const step = event.shiftKey ? 1 : this.#radius();
    const shift = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (shift) {
      this.pen.x = Math.min(Math.max(this.pen.x + shift[0], 0), this.image.width - 1);
      this.pen.y = Math.min(Math.max(this.pen.y + shift[1], 0), this.image.height - 1);
      this.draw();
    } else if (event.key === " ") {
      this.#remember();
      this.#stroke({ ...this.pen }, { ...this.pen });
      this.onChange();
    } else {
      return;
    }
    event.preventDefault();
  }

  #place(event) {
    const frame = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - frame.left) * this.image.width) / frame.width,
      y: ((event.clientY - frame.top) * this.image.height) / frame.height,
    };
  }

  #remember() {
    this.history.push(this.mask.slice());
    if (this.history.length > UNDO_STEPS) this.history.shift();
  }

  #replace(mask) {
    this.mask = mask;
    this.draw();
    this.onChange();
  }
}
