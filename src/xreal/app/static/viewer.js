// The result: image, healthy twin, their difference as an overlay, a swipe; window, level, zoom. props.value is
// {title, image, twin, twinName, outlines}, pictures as data URIs.
const $ = (selector) => element.querySelector(selector);
const canvas = $(".xv-canvas"), context = canvas.getContext("2d"), stage = $(".xv-stage"), moved = $(".xv-moved");
const state = { view: "image", swipe: 50, window: 256, level: 128, zoom: 1, x: 0, y: 0, outlines: false };
const pictures = {};

const load = (uri) => new Promise((done) => {
  if (!uri) return done(null);
  const picture = new Image();
  picture.onload = () => done(picture);
  picture.onerror = () => done(null);
  picture.src = uri;
});

function grey(picture) {
  const scratch = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
  const drawn = scratch.getContext("2d", { willReadFrequently: true });
  drawn.drawImage(picture, 0, 0);
  const data = drawn.getImageData(0, 0, picture.width, picture.height).data;
  return Uint8Array.from({ length: picture.width * picture.height }, (_, i) => data[4 * i]);
}

// DICOM's linear VOI LUT (PS3.3 C.11.2.1.2.1): window 256 at level 128 changes nothing.
const windowed = (value) => 255 * ((value - (state.level - 0.5)) / (state.window - 1) + 0.5);

function render() {
  if (!pictures.image) return;
  const { width, height } = canvas, pixels = context.createImageData(width, height), data = pixels.data;
  const table = Uint8ClampedArray.from({ length: 256 }, (_, value) => windowed(value));
  const { image, twin } = pictures, edge = (width * state.swipe) / 100;
  for (let i = 0; i < image.length; i++) {
    const showTwin = twin && (state.view === "twin" || (state.view === "swipe" && i % width >= edge));
    const value = table[showTwin ? twin[i] : image[i]];
    let colour = [value, value, value];
    if (twin && state.view === "difference") {
      const change = image[i] - twin[i], weight = Math.min(0.85, Math.abs(change) / 40), below = table[twin[i]];
      const tint = change > 0 ? [255, 70, 40] : [60, 130, 255];
      colour = tint.map((part) => below + weight * (part - below));
    }
    data.set([...colour, 255], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
  if (state.outlines && pictures.outlines) context.drawImage(pictures.outlines, 0, 0, width, height);
  if (state.view === "swipe") {
    context.fillStyle = "#ffd400";
    context.fillRect(edge - width / 512, 0, width / 256, height);
  }
  const names = { image: "image", twin: pictures.twinName, swipe: `left image, right ${pictures.twinName}` };
  names.difference = `image − ${pictures.twinName}: red brighter, blue darker`;
  $(".xv-title").textContent = `${pictures.title} — ${names[state.view]}`;
}

function transform() {
  const limit = (stage.clientWidth * (state.zoom - 1)) / 2;
  state.x = Math.min(limit, Math.max(-limit, state.x));
  state.y = Math.min(limit, Math.max(-limit, state.y));
  moved.style.transform = `translate(${state.x}px, ${state.y}px) scale(${state.zoom})`;
}

function zoom(factor) {
  state.zoom = Math.min(8, Math.max(1, state.zoom * factor));
  transform();
}

function choose(view) {
  state.view = pictures.twin ? view : "image";
  for (const each of element.querySelectorAll("[data-view]")) {
    each.setAttribute("aria-pressed", each.dataset.view === state.view);
    each.disabled = !pictures.twin && each.dataset.view !== "image";
  }
  $(".xv-swipe").hidden = state.view !== "swipe";
  render();
}

function reset() {
  Object.assign(state, { window: 256, level: 128, zoom: 1, x: 0, y: 0 });
  $(".xv-window").value = 256;
  $(".xv-level").value = 128;
  transform();
  render();
}

element.querySelectorAll("[data-view]").forEach((each) => each.addEventListener("click", () => choose(each.dataset.view)));
$(".xv-swipe input").addEventListener("input", (event) => { state.swipe = Number(event.target.value); render(); });
$(".xv-window").addEventListener("input", (event) => { state.window = Number(event.target.value); render(); });
$(".xv-level").addEventListener("input", (event) => { state.level = Number(event.target.value); render(); });
$("[data-do=in]").addEventListener("click", () => zoom(1.5));
$("[data-do=out]").addEventListener("click", () => zoom(1 / 1.5));
$("[data-do=reset]").addEventListener("click", reset);
$("[data-do=outlines]").addEventListener("click", (event) => {
  state.outlines = !state.outlines;
  event.target.setAttribute("aria-pressed", state.outlines);
  render();
});
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2);
}, { passive: false });
let from = null;
stage.addEventListener("pointerdown", (event) => {
  from = [event.clientX - state.x, event.clientY - state.y];
  stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  if (!from) return;
  if (state.view === "swipe" && state.zoom === 1) {
    const area = stage.getBoundingClientRect(), share = Math.min(1, canvas.width / canvas.height); // of the stage's width
    const across = (event.clientX - area.left) / area.width - (1 - share) / 2;
    state.swipe = Math.min(100, Math.max(0, (100 * across) / share));
    $(".xv-swipe input").value = state.swipe;
    render();
  } else {
    [state.x, state.y] = [event.clientX - from[0], event.clientY - from[1]];
    transform();
  }
});
["pointerup", "pointercancel"].forEach((name) => stage.addEventListener(name, () => { from = null; }));

async function receive() {
  const value = props.value;
  if (!value || !value.image) return;
  const [image, twin, outlines] = await Promise.all([value.image, value.twin, value.outlines].map(load));
  if (props.value !== value && props.value.image !== value.image) return; // a newer one came meanwhile
  canvas.width = image.width;
  canvas.height = image.height;
  Object.assign(pictures, { image: grey(image), twin: twin && grey(twin), outlines, title: value.title, twinName: value.twinName || "" });
  $(".xv-empty").hidden = true;
  element.querySelector("[data-view=twin]").textContent = value.twinName === "X-ray before" ? "X-ray before" : "Healthy twin";
  choose(state.view);
}
watch("value", receive);
choose("image");
receive();
