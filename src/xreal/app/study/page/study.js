// The reader's page: shows one X-ray after the other, takes answers from the keyboard, the mouse or a finger.

import { request, Saver } from "./saver.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const saver = new Saver(setStatus);
const viewer = new Viewer($("canvas"), save, (on) => document.querySelector("[data-key=w]").ariaPressed = on);

let current = null; // presentation as the server describes it, and the answer so far
let values = {};
let active = null; // name of the question that digits answer
let seconds = 0;
let since = null; // when the picture came into view, null while it is not
let confirming = false;
let nextPicture = null;

function setStatus(text, bad) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function image(path) {
  const picture = new Image();
  picture.src = path;
  return picture;
}

async function loaded(path) {
  for (;;) {
    const picture = image(path);
    try {
      await picture.decode();
      return picture;
    } catch {
      setStatus("no server: trying again", true);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

// Which questions are on: those about what was asked for come last, once the others are answered.
function open() {
  const free = current.questions.filter((question) => !question.needs_request);
  return free.every((question) => question.name in values) ? current.questions : free;
}

function buildQuestions() {
  $("questions").replaceChildren(
    ...current.questions.map((question) => {
      const set = document.createElement("fieldset");
      set.id = question.name;
      const legend = document.createElement("legend");
      legend.textContent = question.text;
      const options = document.createElement("div");
      options.className = "options";
      question.options.forEach(([value, meaning]) => {
        const label = document.createElement("label");
        const input = document.createElement("input");
        Object.assign(input, { type: "radio", name: question.name, value });
        input.addEventListener("change", () => answer(question.name, value));
        const head = document.createElement("b");
        head.textContent = question.name === "verdict" ? meaning[0].toUpperCase() : value > 0 && question.needs_request ? `+${value}` : `${value}`.replace("-", "−");
        label.append(input, head, meaning);
        options.append(label);
      });
      set.append(legend, options);
      set.addEventListener("focusin", () => activate(question.name));
      return set;
    }),
  );
}

function refresh() {
  const shown = new Set(open().map((question) => question.name));
  for (const question of current.questions) {
    $(question.name).hidden = !shown.has(question.name);
    $(question.name).classList.toggle("active", question.name === active);
    for (const input of $(question.name).querySelectorAll("input")) {
      input.checked = values[question.name] === Number(input.value);
    }
  }
  const asking = open().some((question) => question.needs_request);
  $("asked").hidden = !asking || !current.asked;
  $("asked").textContent = `Asked for: ${current.asked}`;
  $("outlines").hidden = !asking || !current.outlined;
  if (asking && current.outlined && !viewer.outlines) {
    const wanted = current;
    loaded(`outlines/${current.id}`).then((outlines) => wanted === current && viewer.setOutlines(outlines));
  }
  $("confirm").disabled = confirming || current.questions.some((question) => !(question.name in values));
}

function activate(name) {
  active = name;
  refresh();
}

function answer(name, value) {
  if (confirming) return;
  values[name] = value;
  save();
  const waiting = open().find((question) => !(question.name in values));
  activate(waiting?.name ?? name);
  $(active).scrollIntoView({ block: "nearest" });
}

function snapshot(done) {
  const shown = since === null ? 0 : (performance.now() - since) / 1000;
  return { values, marks: viewer.marks, seconds: Math.round((seconds + shown) * 10) / 10, done };
}

function save() {
  if (current && !confirming) saver.put(current.id, structuredClone(snapshot(false)));
}

async function confirm() {
  if ($("confirm").disabled) return;
  confirming = true;
  refresh();
  await saver.put(current.id, structuredClone(snapshot(true)));
  await next();
}

async function next() {
  const response = await request("state", setStatus);
  if (!response.ok) return setStatus("this link is not known any more", true);
  const state = await response.json();
  confirming = false;
  seconds = 0;
  since = null;
  $("progress").textContent = `${Math.min(state.done + 1, state.total)} of ${state.total}`;
  $("done").style.width = `${(100 * state.done) / state.total}%`;
  current = state.current;
  if (!current) return finish(state);
  const unsent = saver.unsent(current.id);
  const said = unsent ?? current.answer ?? { values: {}, marks: [], seconds: 0 };
  values = Object.fromEntries(Object.entries(said.values).filter(([, value]) => value !== null));
  seconds = said.seconds;
  const picture = nextPicture?.id === current.id ? nextPicture.picture : await loaded(`picture/${current.id}`);
  await picture.decode().catch(() => {});
  viewer.show(picture.naturalWidth ? picture : await loaded(`picture/${current.id}`), said.marks);
  nextPicture = state.next && { id: state.next, picture: image(`picture/${state.next}`) };
  buildQuestions();
  active = open().find((question) => !(question.name in values))?.name ?? open()[0].name;
  refresh();
  $("canvas").focus();
  if (!$("cover").open) look();
  if (unsent) save();
  return state;
}

function finish(state) {
  $("reading").hidden = true;
  $("title").textContent = "Done. Thank you.";
  $("where").textContent = `All ${state.total} answers are saved. You may close this page.`;
  $("help").hidden = $("go").hidden = true;
  if (!$("cover").open) $("cover").showModal();
}

function look() {
  since ??= performance.now();
}

function lookAway() {
  if (since === null) return;
  seconds += (performance.now() - since) / 1000;
  since = null;
}

function pause() {
  lookAway();
  save();
  $("title").textContent = "Paused";
  $("where").textContent = "Everything is saved; you may close this page and come back with the same link.";
  $("reading").hidden = true;
  $("cover").showModal();
}

function goOn() {
  if (!current) return;
  $("cover").close();
  $("reading").hidden = false;
  viewer.draw();
  $("canvas").focus();
  look();
}

const KEYS = {
  r: () => answer("verdict", 0),
  s: () => answer("verdict", 1),
  enter: confirm,
  arrowleft: () => viewer.adjust(-1, 0),
  arrowright: () => viewer.adjust(1, 0),
  arrowup: () => viewer.adjust(0, 1),
  arrowdown: () => viewer.adjust(0, -1),
  0: () => viewer.setWindow(255, 127.5),
  w: () => viewer.setWindowing(!viewer.windowing),
  z: () => !confirming && viewer.undo(),
  o: () => {
    viewer.showOutlines = !viewer.showOutlines;
    viewer.draw();
  },
  f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  p: pause,
  tab: (event) => {
    const names = open().map((question) => question.name);
    activate(names[(names.indexOf(active) + (event.shiftKey ? names.length - 1 : 1)) % names.length]);
    $(active).scrollIntoView({ block: "nearest" });
  },
};

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || $("cover").open || !current) return;
  const key = event.key.toLowerCase();
  const option = open().find((question) => question.name === active)?.options[Number(key) - 1];
  if (/^[1-5]$/.test(key)) {
    if (option && !event.repeat) answer(active, option[0]);
  } else if (Object.hasOwn(KEYS, key)) {
    if (!event.repeat || key.startsWith("arrow")) KEYS[key](event);
  } else return;
  event.preventDefault();
}

document.addEventListener("keydown", press);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) lookAway();
  else if (!$("cover").open) look();
});
for (const button of document.querySelectorAll("[data-key]")) {
  button.addEventListener("click", () => KEYS[button.dataset.key]());
}
$("confirm").addEventListener("click", confirm);
$("go").addEventListener("click", goOn);
$("cover").addEventListener("cancel", (event) => event.preventDefault());

$("go").disabled = true;
$("cover").showModal();
next().then((state) => {
  if (!state) return;
  $("where").textContent = `${state.done} of ${state.total} done.`;
  $("go").disabled = false;
  $("go").focus();
});
