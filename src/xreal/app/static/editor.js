// The canvas on which organs and findings are painted. Runs in the scope that Gradio gives it: element, props, watch,
// trigger. props.value is {organs, paint, layers, stroke}: organs as shown; paint is 1 + label where painted by hand,
// else 0. Label maps are runs: label, length, label, length, … row by row.
const SIDE = 256, MAX_LAYERS = props.maxLayers;
const canvas = element.querySelector(".xe-canvas"), context = canvas.getContext("2d");
const small = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
const organNames = ["Background", "Left lung", "Right lung", "Heart", "Aorta"];
const state = { organs: new Uint8Array(SIDE * SIDE), paint: new Uint8Array(SIDE * SIDE), layers: [], target: 3, tool: "brush", size: 12, stroke: 0 };
const undo = [];
let picture = null, drag = null;

const titled = (finding) => (finding === "No Finding" ? "Remove findings" : finding);
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const organColours = props.organColours.map(rgb);
const findingColour = (index) => props.findingColours[index % props.findingColours.length];

function toRuns(labels) {
  const runs = [];
  for (let at = 0, from = 0; at < labels.length; from = at) {
    while (at < labels.length && labels[at] === labels[from]) at++;
    runs.push(labels[from], at - from);
  }
  return runs;
}

function fromRuns(runs) {
  const labels = new Uint8Array(SIDE * SIDE);
  for (let i = 0, at = 0; i < runs.length; at += runs[i + 1], i += 2) labels.fill(runs[i], at, at + runs[i + 1]);
  return labels;
}

function render() {
  const pixels = new ImageData(SIDE, SIDE), data = pixels.data;
  const solid = picture ? 90 : 215;
  const shades = state.layers.map((_, index) => rgb(findingColour(index)));
  for (let i = 0; i < SIDE * SIDE; i++) {
    const organ = state.organs[i];
    if (organ) data.set([...organColours[organ - 1], solid], 4 * i);
    for (let k = 0; k < state.layers.length; k++)
      if (state.layers[k].mask[i]) data.set([...shades[k], state.target === "finding:" + k ? 235 : 190], 4 * i);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = true;
  if (picture) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (drag && drag.shape) {
    const f = canvas.width / SIDE, [x0, y0, x1, y1] = drag.shape.map((v) => v * f);
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.beginPath();
    if (state.tool === "box") context.rect(x0, y0, x1 - x0, y1 - y0);
    else context.ellipse((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2, 0, 0, 2 * Math.PI);
    context.stroke();
  }
}

function layerOfTarget() {
  return typeof state.target === "string" ? state.layers[Number(state.target.slice(8))] : null;
}

function mark(inside, x0, y0, x1, y1) {
  const layer = layerOfTarget(), erase = state.tool === "eraser";
  const labels = layer ? layer.mask : state.organs, label = erase ? 0 : layer ? 1 : state.target;
  for (let y = Math.max(0, Math.floor(y0)); y < Math.min(SIDE, Math.ceil(y1)); y++)
    for (let x = Math.max(0, Math.floor(x0)); x < Math.min(SIDE, Math.ceil(x1)); x++)
      if (inside(x + 0.5, y + 0.5)) {
        labels[y * SIDE + x] = label;
        if (!layer) state.paint[y * SIDE + x] = label + 1;
      }
}

function brush(from, to) {
  const r = state.size / 2, steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
  for (let i = 0; i <= steps; i++) {
    const cx = from[0] + ((to[0] - from[0]) * i) / steps, cy = from[1] + ((to[1] - from[1]) * i) / steps;
    mark((x, y) => (x - cx) ** 2 + (y - cy) ** 2 <= r * r, cx - r, cy - r, cx + r, cy + r);
  }
}

function snapshot() {
  undo.push({ organs: state.organs.slice(), paint: state.paint.slice(), masks: state.layers.map((layer) => [layer.finding, layer.mask.slice()]) });
  if (undo.length > 20) undo.shift();
}

function send(byHand = true) {
  state.stroke++;
  const layers = state.layers.map(({ finding, strength, mask }) => ({ finding, strength, runs: toRuns(mask) }));
  props.value = { organs: toRuns(state.organs), paint: toRuns(state.paint), layers, stroke: state.stroke };
  if (byHand) trigger("input");
}

function place(event) {
  const area = canvas.getBoundingClientRect();
  return [((event.clientX - area.left) / area.width) * SIDE, ((event.clientY - area.top) / area.height) * SIDE];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button || drag) return;
  canvas.setPointerCapture(event.pointerId);
  snapshot();
  drag = { from: place(event), last: place(event) };
  if (state.tool === "brush" || state.tool === "eraser") brush(drag.last, drag.last);
  render();
});
canvas.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const here = place(event).map((v) => Math.min(SIDE, Math.max(0, v)));
  if (state.tool === "brush" || state.tool === "eraser") brush(drag.last, here);
  else
    drag.shape = [
      Math.min(drag.from[0], here[0]), Math.min(drag.from[1], here[1]),
      Math.max(drag.from[0], here[0]), Math.max(drag.from[1], here[1]),
    ];
  drag.last = here;
  render();
});
function finish() {
  if (!drag) return;
  if (drag.shape) {
    const [x0, y0, x1, y1] = drag.shape, cx = (x0 + x1) / 2, cy = (y0 + y1) / 2, rx = (x1 - x0) / 2, ry = (y1 - y0) / 2;
    const inBox = (x, y) => x >= x0 && x < x1 && y >= y0 && y < y1;
    const inEllipse = (x, y) => ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1;
    mark(state.tool === "box" ? inBox : inEllipse, x0, y0, x1, y1);
  }
  drag = null;
  render();
  send();
}
canvas.addEventListener("pointerup", finish);
canvas.addEventListener("pointercancel", finish);

function button(text, colour, pressed, onClick) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.setAttribute("role", "radio");
  made.setAttribute("aria-checked", pressed);
  if (colour) {
    const dot = document.createElement("i");
    dot.style.background = colour;
    made.prepend(dot);
  }
  made.addEventListener("click", onClick);
  return made;
}

function aim(target) {
  state.target = target;
  if (state.tool === "eraser") use("brush");
  controls();
  render();
}

function controls() {
  const organs = element.querySelector(".xe-organs"), list = element.querySelector(".xe-layers");
  organs.replaceChildren(organs.firstElementChild);
  [1, 2, 3, 4, 0].forEach((label) =>
    organs.append(button(organNames[label], label ? props.organColours[label - 1] : "#000", state.target === label, () => aim(label))));
  list.replaceChildren(...state.layers.map((layer, index) => {
    const row = Object.assign(document.createElement("div"), { className: "xe-row xe-layer" });
    const target = "finding:" + index;
    const strength = document.createElement("label"), range = document.createElement("input"), shown = document.createElement("output");
    Object.assign(range, { type: "range", min: 0.1, max: 2, step: 0.1, value: layer.strength });
    range.setAttribute("aria-label", "Strength of " + layer.finding);
    shown.textContent = Number(layer.strength).toFixed(1);
    range.addEventListener("input", () => { layer.strength = Number(range.value); shown.textContent = layer.strength.toFixed(1); });
    range.addEventListener("change", send);
    strength.append("strength ", range, shown);
    const remove = Object.assign(document.createElement("button"), { type: "button", textContent: "Delete" });
    remove.setAttribute("aria-label", "Delete the layer " + titled(layer.finding));
    remove.addEventListener("click", () => {
      snapshot();
      state.layers.splice(index, 1);
      aim(state.layers.length ? "finding:" + (state.layers.length - 1) : 3);
      send();
    });
    const chosen = button(titled(layer.finding), findingColour(index), state.target === target, () => aim(target));
    row.append(chosen, ...(layer.finding === "No Finding" ? [] : [strength]), remove); // a removal has no strength
    return row;
  }));
  const add = element.querySelector(".xe-add");
  for (const option of add.querySelectorAll("option")) option.disabled = state.layers.some((one) => one.finding === option.value);
  add.value = "";
  add.disabled = state.layers.length >= MAX_LAYERS;
}

function use(tool) {
  state.tool = tool;
  for (const each of element.querySelectorAll("[data-tool]")) each.setAttribute("aria-pressed", each.dataset.tool === tool);
}

element.querySelectorAll("[data-tool]").forEach((each) => each.addEventListener("click", () => use(each.dataset.tool)));
element.querySelector(".xe-size").addEventListener("input", (event) => { state.size = Number(event.target.value); });
element.querySelector("[data-do=undo]").addEventListener("click", () => {
  const before = undo.pop();
  if (!before) return;
  state.organs = before.organs;
  state.paint = before.paint;
  for (const [finding, mask] of before.masks) {
    const layer = state.layers.find((one) => one.finding === finding);
    if (layer) layer.mask = mask;
    else state.layers.push({ finding, mask, strength: 1 });
  }
  controls();
  render();
  send();
});

const add = element.querySelector(".xe-add");
add.append(new Option("Add a finding…", ""));
for (const [label, findings] of props.findings) {
  const group = Object.assign(document.createElement("optgroup"), { label });
  group.append(...findings.map((finding) => new Option(titled(finding), finding)));
  add.append(group);
}
add.addEventListener("change", () => {
  if (!add.value) return;
  state.layers.push({ finding: add.value, strength: 1, mask: new Uint8Array(SIDE * SIDE) });
  aim("finding:" + (state.layers.length - 1));
  send();
});

// What the server sends: organs always; of a fresh start also no paint, the findings that stay, and the X-ray below.
function receive() {
  const value = props.value;
  if (!value || value.stroke !== undefined) return;
  element.querySelector(".xe").classList.remove("xe-waiting");
  state.organs = fromRuns(value.organs);
  if (value.fresh) {
    undo.length = 0;
    state.paint = fromRuns(value.paint);
    state.layers = value.layers.map(({ finding, strength, runs }) => ({ finding, strength, mask: fromRuns(runs) }));
    state.target = 3;
    picture = null;
    if (value.picture) {
      const loaded = new Image();
      loaded.onload = () => { picture = loaded; render(); };
      loaded.src = value.picture;
    }
  }
  controls();
  render();
  send(false);
}
watch("value", receive);
controls();
receive();
render();
