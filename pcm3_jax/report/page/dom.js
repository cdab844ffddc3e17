"use strict";
// Names and labels come from files: they are inserted as text nodes and attributes, never as
// markup.
const REPORT = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const h = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

const COLOURS = 8;
const colourOf = (index) => `var(--c${index % COLOURS})`;
const dashOf = (index) => ["", "7 4", "2 4", "9 3 2 3"][Math.floor(index / COLOURS) % 4];
const runName = (index) => REPORT.runs[index].name;
const readable = (label) => String(label).replaceAll("_", " ");

// Three significant digits.
function number(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}

// The direction of an arrow key, 1 or -1, or 0 for other keys.
function arrow(event) {
  const way = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key] || 0;
  if (way) event.preventDefault();
  return way;
}

// Calls draw(width) now and whenever the element's width changes.
function onWidth(element, draw) {
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width && width !== last) draw((last = width));
  }).observe(element);
}

// A canvas of width × height CSS pixels, sharp on every screen; its 2-D context.
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

// Buttons of which one is pressed; choose(value) is called for the first and for each press.
function choices(label, options, choose) {
  const buttons = options.map(([value, text]) =>
    h("button", { type: "button", "aria-pressed": "false", onclick: () => press(value) }, text));
  function press(value) {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(options[i][0] === value)));
    choose(value);
  }
  press(options[0][0]);
  return h("div", { class: "buttons", role: "group", "aria-label": label }, buttons);
}

// Colours for canvases, which cannot use the style sheet's variables.
const known = new Map();
function cssColour(name) {
  if (!known.has(name)) {
    document.head.style.color = `var(${name})`;
    known.set(name, getComputedStyle(document.head).color);
  }
  return known.get(name);
}

const paper = window.matchMedia("print");
const redraws = [() => known.clear()];
const onTheme = (draw) => redraws.push(draw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((draw) => draw()));
