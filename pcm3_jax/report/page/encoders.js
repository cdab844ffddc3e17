// Confusion matrices, maps of the embeddings, and nearest neighbours.
function confusion(spec) {
  const { classes, matrix } = spec;
  const sum = (row) => row.reduce((a, b) => a + b, 0);
  const right = sum(matrix.map((row, i) => row[i]));
  const count = sum(matrix.map(sum));
  const filled = matrix.flatMap((row, i) => row.map((value, j) => {
    const share = value / sum(row);
    return { i, j, value, share, text: `${readable(classes[i])} → ${readable(classes[j])}: ${value} of ${sum(row)} (${(100 * share).toFixed(0)} %)` };
  })).filter(({ value }) => value);
  const mistakes = filled.filter(({ i, j }) => i !== j).sort((a, b) => b.value - a.value).slice(0, 5).map(({ text }) => text);

  const resting = "Rows are true classes, columns predicted classes; the colour of a cell shows its share of the row.";
  const told = h("p", { class: "told", role: "status" }, resting);
  const tell = (text) => () => (told.textContent = text);
  const at = (row, column) => `grid-area:${row + 2}/${column + 2}`;
  const picture = h("div", { class: "confusion", role: "img", onpointerleave: tell(resting),
    style: `--classes:${classes.length};--longest:${Math.max(...classes.map((name) => name.length)) + 4}`,
    "aria-label": `Confusion matrix of ${classes.length} classes, ${right} of ${count} right. Most frequent confusions: ${mistakes.join("; ") || "none"}.` },
    h("div", { class: "floor", onpointermove: tell(resting) }),
    classes.map((name, i) => h("span", { class: "row", style: at(i, -1) }, `${i + 1} ${readable(name)}`)),
    classes.map((_, i) => h("span", { class: "column", style: at(-1, i) }, i % 5 === 4 ? h("b", {}, i + 1) : i + 1)),
    filled.map(({ i, j, value, share, text }) => h("span", { class: share > 0.5 ? "cell strong" : "cell",
      style: `${at(i, j)};--share:${share}`, onpointermove: tell(text) }, value)));
  onWidth(picture.querySelector(".floor"), (width) => {
    picture.classList.toggle("small", width / classes.length < 20);
    picture.classList.toggle("tiny", width / classes.length < 11);
  });
  return h("figure", { class: "card", "data-figure": `confusion_${runName(spec.run)}_${spec.by}.png` },
    h("h3", {}, runName(spec.run)),
    h("p", { class: "note" }, `By the ${spec.by}: ${right} of ${count} sequences are classified correctly (${(100 * right / count).toFixed(1)} %).`),
    picture, told,
    mistakes.length ? [h("p", { class: "note" }, "Most frequent confusions"),
      h("ol", { class: "confusions" }, mistakes.map((text) => h("li", {}, text)))] : null);
}

// A class has a colour and a shape, so that it is recognisable without colour vision.
const SHAPES = [
  "M-1 0a1 1 0 1 0 2 0 1 1 0 1 0-2 0z", "M-.9-.9H.9V.9H-.9z", "M0-1.25 1.1.65H-1.1z",
  "M0-1.25 1.25 0 0 1.25-1.25 0z", "M0 1.25 1.1-.65H-1.1z",
];
function mark(kind, x, y, size) {
  const path = new Path2D();
  path.addPath(new Path2D(SHAPES[kind % SHAPES.length]), new DOMMatrix([size, 0, 0, size, x, y]));
  return path;
}

function classMap(spec) {
  const map = spec.map;
  const canvas = h("canvas", { class: "places", role: "img", tabindex: 0,
    "aria-label": `${map.method} map of ${map.x.length} sequences in ${map.classes.length} classes. Arrow keys go through the sequences.` });
  const inspector = h("div", { class: "inspector", "aria-live": "polite" });
  const state = { chosen: null, held: null, only: null, mistakes: false, width: 0 };
  const place = (i) => [12 + map.x[i] * (state.width - 24), 12 + (1 - map.y[i]) * (state.width * 0.75 - 24)];
  const faded = (i) => (state.only !== null && map.label[i] !== state.only) || (state.mistakes && map.right[i]);

  function draw() {
    if (!state.width) return;
    const context = sized(canvas, state.width, state.width * 0.75);
    const size = Math.max(2.4, Math.min(4.5, state.width / 170));
    const order = [...map.x.keys()].sort((a, b) => Number(!faded(a)) - Number(!faded(b)));
    for (const i of order) {
      context.globalAlpha = faded(i) ? 0.1 : 0.85;
      context.fillStyle = cssColour(`--c${map.label[i] % COLOURS}`);
      context.fill(mark(map.label[i], ...place(i), size));
    }
    context.globalAlpha = 1;
    if (state.chosen !== null && !paper.matches) {
      context.strokeStyle = cssColour("--ink");
      context.lineWidth = 2;
      context.stroke(mark(0, ...place(state.chosen), size + 4));
    }
  }

  function choose(i) {
    if (i === state.chosen) return;
    state.chosen = i;
    draw();
    inspector.replaceChildren(
      stage(map.sequence[i], { height: 210, label: `skeleton of ${map.name[i]}` }),
      h("dl", {}, h("dt", {}, "class"), h("dd", {}, readable(map.classes[map.label[i]])),
        h("dt", {}, "nearest"), h("dd", { class: map.right[i] ? "right" : "wrong" }, `${map.right[i] ? "✓" : "✗"} ${readable(map.nearest[i])}`),
        h("dt", {}, "sequence"), h("dd", { class: "mono" }, map.name[i])));
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const distance = (i) => Math.hypot(place(i)[0] - x, place(i)[1] - y);
    const near = [...map.x.keys()].filter((i) => !faded(i) && distance(i) < 24);
    if (near.length) choose(near.reduce((best, i) => (distance(i) < distance(best) ? i : best)));
  }
  canvas.addEventListener("pointermove", under);
  canvas.addEventListener("pointerdown", under);
  canvas.addEventListener("keydown", (event) => {
    const way = arrow(event);
    const shown = [...map.x.keys()].filter((i) => !faded(i));
    if (way && shown.length) choose(shown[(shown.indexOf(state.chosen) + way + shown.length) % shown.length]);
  });
  onWidth(canvas, (width) => { state.width = width; draw(); });
  onTheme(draw);
  choose(Math.max(0, map.right.indexOf(false)));

  const counts = map.classes.map((_, i) => map.label.filter((label) => label === i).length);
  const show = (only) => { state.only = only; draw(); };
  const legend = map.classes.map((name, i) => h("button", { type: "button", "aria-pressed": "false",
    onpointerenter: () => show(i), onpointerleave: () => show(state.held),
    onclick: () => {
      state.held = state.held === i ? null : i;
      legend.forEach((other, j) => other.setAttribute("aria-pressed", String(j === state.held)));
      show(state.held);
    } },
    svg("svg", { viewBox: "-1.4 -1.4 2.8 2.8", "aria-hidden": "true" },
      svg("path", { d: SHAPES[i % SHAPES.length], style: `fill:${colourOf(i)}` })), `${readable(name)} · ${counts[i]}`));
  const some = map.x.length < map.of ? `${map.x.length} of ${map.of}, drawn at random` : `all ${map.of}`;
  const where = spec.checkpoint === null ? "" : `, checkpoint of step ${spec.checkpoint.toLocaleString("en")}`;
  return h("figure", { class: "card", "data-figure": `map_${runName(spec.run)}.png` }, h("h3", {}, runName(spec.run)),
    h("p", { class: "note" }, `${map.method} of the encoder's features${where}; ${some} test sequences. `
      + `1-NN accuracy with ${spec.train} training sequences: ${(100 * spec.accuracy).toFixed(1)} %.`
      + (map.method === "t-SNE" ? " Only local neighbourhoods are meaningful; axes and large distances are not." : "")),
    h("div", { class: "map" },
      h("div", {}, canvas, choices("Sequences on the map", [[false, "All sequences"], [true, "Mistakes of the nearest neighbour"]],
        (only) => { state.mistakes = only; draw(); })),
      h("div", {}, inspector)),
    h("div", { class: "classes", role: "group", "aria-label": "Show one class" }, legend));
}

function gallery(spec) {
  const list = h("div", { "data-figure": `neighbours_${runName(spec.run)}.gif` });
  const right = (query) => query.neighbours[0].right;
  const kinds = [["all", "All"], ["wrong", "Nearest is wrong"], ["right", "Nearest is right"]];
  const item = (found, kind, title, text) => panel(found.sequence,
    { height: 140, label: `${kind === "is-query" ? "query" : "neighbour"} ${readable(found.label)}, ${found.name}` }, title, text, { class: kind, title: found.name });
  const rows = spec.gallery.map((query) => [query, h("div", { class: "card query", role: "group", tabindex: 0,
    "aria-label": `query ${readable(query.label)} and its nearest sequences` },
    item(query, "is-query", h("b", {}, readable(query.label)), "query"),
    query.neighbours.map((found) => item(found, found.right ? "is-right" : "is-wrong",
      h("b", { class: found.right ? "right" : "wrong" }, `${found.right ? "✓" : "✗"} ${readable(found.label)}`),
      `cosine ${found.cosine.toFixed(3)}`)))]);
  function show(kind) {
    const chosen = rows.filter(([query]) => kind === "all" || right(query) === (kind === "right"));
    list.replaceChildren(...(chosen.length ? chosen.map(([, row]) => row) : [empty("None of these queries matches.")]));
    chosen.forEach(([, row]) => row.querySelectorAll("canvas").forEach((canvas) => seen.observe(canvas)));
  }
  const wrong = spec.gallery.filter((query) => !right(query)).length;
  return h("div", {}, h("h3", {}, runName(spec.run)),
    h("p", { class: "note" }, `${spec.gallery.length} test sequences, ${wrong} of them chosen because their nearest neighbour is wrong. 1-NN accuracy on the whole test split: ${(100 * spec.accuracy).toFixed(1)} %.`),
    choices("Queries", kinds, show), list);
}
