// What all apps are put together from: elements, controls with labels, sheets of small pictures.

const APPS = {}; // name -> title and maker; each file of an app adds its own

const TAKES_KEYS = ["input", "select", "button"];
const OURS = "data-lm-suppress-shortcuts"; // JupyterLab leaves the keys of such an element alone

/** An element: attributes that begin with "on" are listeners, the rest is set as it is. */
function tag(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  if (TAKES_KEYS.includes(name)) made.setAttribute(OURS, "");
  give(made, attributes);
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

/** The same for the elements of a drawing. */
function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  give(made, attributes);
  made.append(...children.flat());
  return made;
}

function give(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
}

let numbered = 0;
const fresh = (what) => `odebc-${what}-${++numbered}`;

/** A slider over given values; its readout says the value and what it counts. */
function slider({ label, values, value, unit = "", show = String, oninput, onchange }) {
  const id = fresh("slider");
  const readout = tag("output", { for: id, class: "odebc-readout" });
  const input = tag("input", { type: "range", id, min: 0, step: 1 });
  const control = {
    node: tag("div", { class: "odebc-slider" }, tag("label", { for: id }, label), input, readout),
    input,
    get value() {
      return values[Number(input.value)];
    },
    set(wanted) {
      input.value = nearest(values, wanted);
      tell();
    },
    over(others, wanted) {
      values = others;
      input.max = values.length - 1;
      input.disabled = values.length < 2; // its places are not known yet
      control.set(wanted);
    },
  };
  function tell() {
    const text = `${show(control.value)}${unit}`;
    readout.textContent = text;
    input.setAttribute("aria-valuetext", text);
  }
  input.addEventListener("input", () => (tell(), oninput?.(control.value)));
  input.addEventListener("change", () => onchange?.(control.value));
  control.over(values, value ?? values[0]);
  return control;
}

/** Where in a list of growing numbers a number fits best. */
function nearest(values, wanted) {
  let best = 0;
  values.forEach((value, i) => {
    if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = i;
  });
  return best;
}

/** A list to choose from; options are [text, value]. */
function choice({ label, options, value, onchange }) {
  const id = fresh("choice");
  const select = tag("select", { id, onchange: () => onchange?.(control.value) });
  const control = {
    node: tag("div", { class: "odebc-choice" }, tag("label", { for: id }, label), select),
    select,
    get value() {
      return options[select.selectedIndex]?.[1];
    },
    set(wanted) {
      select.selectedIndex = options.findIndex(([, known]) => known === wanted);
    },
    offer(others, wanted) {
      options = others;
      select.replaceChildren(...options.map(([text]) => tag("option", {}, text)));
      control.set(wanted ?? options[0]?.[1]);
    },
  };
  control.offer(options, value);
  return control;
}

function button(text, onclick, attributes = {}) {
  return tag("button", { type: "button", onclick, ...attributes }, text);
}

const row = (...parts) => tag("div", { class: "odebc-row" }, ...parts);

/** Whole numbers from 1 to n at about equal ratios: the places of a slider. */
function logSteps(n, most = 32) {
  const steps = Array.from({ length: most }, (_, i) => Math.round(n ** (i / (most - 1))));
  return [...new Set(steps)];
}

/** Numbers from first to last, without the dust of adding .01 a hundred times. */
function evenSteps(first, last, step) {
  const n = Math.round((last - first) / step) + 1;
  return Array.from({ length: n }, (_, i) => Number((first + i * step).toFixed(6)));
}

/** Bytes from Python (a DataView) as numbers. */
function numbersIn(view, Kind = Float32Array) {
  return new Kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

function blobOf(view, type) {
  return new Blob([view], { type });
}

/** A picture that the browser can draw, from the bytes of a file. */
const decoded = (view, type = "image/webp") => createImageBitmap(blobOf(view, type));

/** Many small square pictures in one: `at(n)` is what a canvas can draw from. */
async function sheet(view, side, across = 20, type = "image/webp") {
  const image = await decoded(view, type);
  return {
    side,
    at: (n) => ({
      image,
      x: (n % across) * side,
      y: Math.floor(n / across) * side,
      width: side,
      height: side,
    }),
  };
}

/** Draw a part of a picture so that it fills a canvas, with its pixels kept visible. */
function paint(canvas, part) {
  canvas.width = part.width;
  canvas.height = part.height;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, part.width, part.height);
  const { image, x, y, width, height } = part;
  context.drawImage(image, x, y, width, height, 0, 0, width, height);
}

/** A file that the browser keeps. */
function download(view, name, type = "application/octet-stream") {
  const url = URL.createObjectURL(blobOf(view, type));
  tag("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const four = (x) => x.toFixed(4);
const percent = (x) => `${(100 * x).toFixed(0)} %`;
const counted = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

const shortName = (network) => network.split(/[\\/]/).at(-1);

/** The questions of one name that a static page has answers to. */
function questionsKept(facts, name) {
  const kept = Object.keys(facts.answers).map((question) => JSON.parse(question));
  return kept.filter(([asked]) => asked === name).map(([, args]) => args);
}

/** The scores that an app can begin with, as options of a choice. */
function keysOf(facts, offered) {
  const keys = Object.keys(facts.shelf);
  const there = offered ? keys.filter((key) => offered.some((args) => args.key === key)) : keys;
  return there.map((key) => {
    const { network, sampler } = facts.shelf[key];
    return [`${shortName(network)}, ${sampler}`, key];
  });
}

/** Where the effect of x_T is large, if that network is there. */
function firstKey(facts, offered) {
  const keys = keysOf(facts, offered).map(([, key]) => key);
  return keys.find((key) => key.startsWith("small-mid")) ?? keys[0];
}

/** The newest in a map that does not grow without end. */
function keep(map, name, value, most) {
  map.set(name, value);
  if (map.size > most) map.delete(map.keys().next().value);
  return value;
}
