// The picture: window and level, outlines of what was asked for, free marks.

const MARK = "#ffd23f";
const STEP = 8; // grey levels per key press
const NEAREST = 0.004; // of the side; closer points of a stroke are left out

export class Viewer {
  constructor(canvas, onMarks, onTool) {
    Object.assign(this, { canvas, onMarks, onTool, marks: [], windowing: false, showOutlines: true });
    this.picture = this.outlines = null;
    this.setWindow(255, 127.5);
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.#start(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  show(picture, marks) {
    this.picture = picture;
    this.outlines = null;
    this.marks = marks;
    this.shown = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight);
    const context = this.shown.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    this.pixels = context.getImageData(0, 0, picture.naturalWidth, picture.naturalHeight);
    this.setWindow(255, 127.5);
  }

  setOutlines(outlines) {
    this.outlines = outlines;
    this.draw();
  }

  setWindow(width, level) {
    this.width = Math.min(510, Math.max(2, width));
    this.level = Math.min(255, Math.max(0, level));
    if (this.picture) {
      const table = Uint8ClampedArray.from({ length: 256 }, (_, v) => ((v - this.level) / this.width + 0.5) * 255);
      const data = new ImageData(this.pixels.width, this.pixels.height);
      for (let i = 0; i < data.data.length; i += 4) {
        data.data[i] = data.data[i + 1] = data.data[i + 2] = table[this.pixels.data[i]];
        data.data[i + 3] = 255;
      }
      this.shown.getContext("2d").putImageData(data, 0, 0);
    }
    this.draw();
  }

  adjust(widths, levels) {
    this.setWindow(this.width + widths * STEP, this.level + levels * STEP);
  }

  setWindowing(on) {
    this.windowing = on;
    this.onTool(on);
  }

  undo() {
    if (this.marks.pop()) {
      this.onMarks();
      this.draw();
    }
  }

  draw() {
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(this.canvas.clientWidth * scale);
    const height = Math.round(this.canvas.clientHeight * scale);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      [this.canvas.width, this.canvas.height] = [width, height];
    }
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    if (!this.picture || !width || !height) return;
    const { x, y, w, h } = this.#place();
    context.imageSmoothingQuality = "high";
    context.drawImage(this.shown, x, y, w, h);
    if (this.outlines && this.showOutlines) context.drawImage(this.outlines, x, y, w, h);
    context.strokeStyle = context.fillStyle = MARK;
    context.lineWidth = 2 * scale;
    for (const stroke of this.marks) {
      context.beginPath();
      stroke.forEach(([u, v]) => context.lineTo(x + u * w, y + v * h));
      context.stroke();
      if (stroke.length === 1) {
        context.beginPath();
        context.arc(x + stroke[0][0] * w, y + stroke[0][1] * h, 8 * scale, 0, 7);
        context.stroke();
      }
    }
  }

  #place() {
    const { width, height } = this.canvas;
    const ratio = Math.min(width / this.shown.width, height / this.shown.height);
    const [w, h] = [this.shown.width * ratio, this.shown.height * ratio];
    return { x: (width - w) / 2, y: (height - h) / 2, w, h };
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    const { x, y, w, h } = this.#place();
    const inside = (value) => Math.round(Math.min(1, Math.max(0, value)) * 1e4) / 1e4;
    return [
      inside(((event.clientX - box.left) * scale - x) / w),
      inside(((event.clientY - box.top) * scale - y) / h),
    ];
  }

  #start(event) {
    if (!this.picture || event.button === 1) return;
    this.canvas.setPointerCapture(event.pointerId);
    const windowing = this.windowing || event.button === 2;
    const [width, level, x0, y0] = [this.width, this.level, event.clientX, event.clientY];
    const stroke = [this.#point(event)];
    const marks = this.marks;
    if (!windowing) marks.push(stroke);
    const move = (moved) => {
      if (windowing) return this.setWindow(width + moved.clientX - x0, level + (moved.clientY - y0) / 2);
      const [point, last] = [this.#point(moved), stroke.at(-1)];
      if (Math.hypot(point[0] - last[0], point[1] - last[1]) > NEAREST && stroke.length < 5000) stroke.push(point);
      this.draw();
    };
    const end = () => {
      this.canvas.removeEventListener("pointermove", move);
      if (!windowing && marks === this.marks) this.onMarks();
      this.draw();
    };
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("lostpointercapture", end, { once: true });
  }
}
