// Confusions, maps of the embeddings, and nearest neighbours.
function confusion(spec) {
  const { classes, matrix } = spec;
  const totals = matrix.map((row) => row.reduce((a, b) => a + b, 0));
  const holder = h("div", { class: "confusion" });
  const told = h("p", { class: "told", role: "status" });
  const resting = "Rows are the true classes, columns what was found; a cell's colour is its share of its row.";
  told.textContent = resting;

  const right = matrix.reduce((sum, row, i) => sum + row[i], 0);
  const count = totals.reduce((a, b) => a + b, 0);
  const sentence = (i, j) => `${readable(classes[i])} → ${readable(classes[j])}: ${matrix[i][j]} of ${totals[i]} (${(100 * matrix[i][j] / totals[i]).toFixed(0)} %)`;
  const mistakes = matrix.flatMap((row, i) => row.map((value, j) => [value, i, j]))
    .filter(([value, i, j]) => value && i !== j).sort((a, b) => b[0] - a[0]).slice(0, 5);

  function draw(width) {
    const n = classes.length;
    const longest = Math.max(...classes.map((name) => name.length)) + 3;
    const names = Math.min(longest * 6.3 + 8, width * 0.52);
    const size = Math.min((width - names - 2) / n, 46);
    const height = n * size + 22;
    const text = size >= 11;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
      "aria-label": `Confusion matrix of ${n} classes, ${right} of ${count} right. Most frequent confusions: ${mistakes.map(([, i, j]) => sentence(i, j)).join("; ") || "none"}.`,
      onpointerleave: () => (told.textContent = resting) });
    classes.forEach((name, i) => {
      const label = `${i + 1} ${readable(name)}`;
      const fits = Math.floor(names / 6.3);
      if (text) {
        picture.append(svg("text", { class: "soft", x: names - 7, y: 20 + (i + 0.5) * size + 4, "text-anchor": "end" },
          label.length > fits ? `${label.slice(0, fits - 1)}…` : label));
      }
      if (text && (size >= 17 || i % 5 === 4)) {
        picture.append(svg("text", { class: "soft", x: names + (i + 0.5) * size, y: 14, "text-anchor": "middle" }, i + 1));
      }
    });
    picture.append(svg("rect", { x: names, y: 20, width: n * size, height: n * size, style: "fill:rgba(var(--cell),.045)",
      onpointermove: () => (told.textContent = resting) }));
    matrix.forEach((row, i) => row.forEach((value, j) => {
      if (!value) return;
      const share = value / totals[i];
      picture.append(svg("rect", { class: "cell", x: names + j * size, y: 20 + i * size, width: size, height: size,
        style: `fill:rgba(var(--cell),${(0.1 + 0.9 * share).toFixed(3)})`,
        onpointermove: () => (told.textContent = sentence(i, j)) }));
      if (size >= 22) {
        const strong = share > 0.5;
        picture.append(svg("text", { x: names + (j + 0.5) * size, y: 20 + (i + 0.5) * size + 4, "text-anchor": "middle",
          "pointer-events": "none", style: strong ? "fill:var(--card)" : "" }, value));
      }
    }));
    holder.replaceChildren(picture);
  }
  onWidth(holder, draw);
  return h("figure", { class: "card" },
    h("h3", {}, runName(spec.run)),
    h("p", { class: "note" }, `By the ${spec.by}: ${right} of ${count} sequences right (${(100 * right / count).toFixed(1)} %).`),
    holder, told,
    mistakes.length ? [h("p", { class: "note" }, "Most frequent confusions"),
      h("ol", { class: "confusions" }, mistakes.map(([, i, j]) => h("li", {}, sentence(i, j))))] : null);
}

// A class is a colour and a shape, so that neither must be told alone.
const SHAPES = 5;
function mark(context, kind, x, y, size) {
  context.beginPath();
  if (kind === 0) context.arc(x, y, size, 0, 7);
  else if (kind === 1) context.rect(x - size * 0.88, y - size * 0.88, size * 1.76, size * 1.76);
  else {
    const corners = [[0, 0], [0, 0], [3, -90], [4, 0], [3, 90]][kind];
    for (let i = 0; i < corners[0]; i++) {
      const turn = (corners[1] + i * 360 / corners[0]) * Math.PI / 180;
      context.lineTo(x + 1.25 * size * Math.cos(turn), y + 1.25 * size * Math.sin(turn));
    }
    context.closePath();
  }
}
const classColour = (i) => cssColour(`--c${i % COLOURS}`);
const classShape = (i) => i % SHAPES;

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
      context.fillStyle = classColour(map.label[i]);
      mark(context, classShape(map.label[i]), ...place(i), size);
      context.fill();
    }
    context.globalAlpha = 1;
    if (state.chosen !== null) {
      context.strokeStyle = cssColour("--ink");
      context.lineWidth = 2;
      mark(context, 0, ...place(state.chosen), size + 4);
      context.stroke();
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
    let best = null;
    let distance = 24;
    map.x.forEach((_, i) => {
      if (faded(i)) return;
      const [px, py] = place(i);
      const d = Math.hypot(px - x, py - y);
      if (d < distance) [best, distance] = [i, d];
    });
    if (best !== null) choose(best);
  }
  canvas.addEventListener("pointermove", under);
  canvas.addEventListener("pointerdown", under);
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const shown = [...map.x.keys()].filter((i) => !faded(i));
    if (shown.length) choose(shown[(shown.indexOf(state.chosen) + way + shown.length) % shown.length]);
  });
  onWidth(canvas, (width) => { state.width = width; draw(); });
  onTheme(draw);
  choose(Math.max(0, map.right.indexOf(false)));

  const counts = map.classes.map((_, i) => map.label.filter((label) => label === i).length);
  const legend = map.classes.map((name, i) => {
    const sample = h("canvas", { "aria-hidden": "true" });
    const paint = () => {
      const context = sized(sample, 14, 14);
      context.fillStyle = classColour(i);
      mark(context, classShape(i), 7, 7, 5);
      context.fill();
    };
    paint();
    onTheme(paint);
    const show = (only) => { state.only = only; draw(); };
    const button = h("button", { type: "button", "aria-pressed": "false",
      onpointerenter: () => show(i), onpointerleave: () => show(state.held),
      onclick: () => {
        state.held = state.held === i ? null : i;
        buttons.forEach((other, j) => other.setAttribute("aria-pressed", String(j === state.held)));
        show(state.held);
      } }, sample, `${readable(name)} · ${counts[i]}`);
    return button;
  });
  const buttons = legend;
  const some = map.x.length < map.of ? `${map.x.length} of ${map.of}, drawn at random` : `all ${map.of}`;
  const where = spec.checkpoint === null ? "" : `, checkpoint of step ${spec.checkpoint.toLocaleString("en")}`;
  return h("figure", { class: "card" }, h("h3", {}, runName(spec.run)),
    h("p", { class: "note" }, `${map.method} of the encoder's features${where}; ${some} test sequences. `
      + `Nearest neighbours among ${spec.train} training sequences: ${(100 * spec.accuracy).toFixed(1)} % right.`
      + (map.method === "t-SNE" ? " Only who is near whom has a meaning; axes and large distances have none." : "")),
    h("div", { class: "map" },
      h("div", {}, canvas, choices("Sequences on the map", [[false, "All sequences"], [true, "Mistakes of the nearest neighbour"]],
        (only) => { state.mistakes = only; draw(); })),
      h("div", {}, inspector)),
    h("div", { class: "classes", role: "group", "aria-label": "Show one class" }, legend));
}

function gallery(spec) {
  const list = h("div");
  const right = (query) => query.neighbours[0].right;
  const kinds = [["all", "All"], ["wrong", "Nearest is wrong"], ["right", "Nearest is right"]];
  const rows = spec.gallery.map((query) => [query, h("div", { class: "card query", role: "group", tabindex: 0,
    "aria-label": `query ${readable(query.label)} and its nearest sequences` },
    item(query, "is-query", h("b", {}, readable(query.label)), "query"),
    query.neighbours.map((found) => item(found, found.right ? "is-right" : "is-wrong",
      h("b", { class: found.right ? "right" : "wrong" }, `${found.right ? "✓" : "✗"} ${readable(found.label)}`),
      `cosine ${found.cosine.toFixed(3)}`)))]);
  function show(kind) {
    const chosen = rows.filter(([query]) => kind === "all" || right(query) === (kind === "right"));
    list.replaceChildren(...(chosen.length ? chosen.map(([, row]) => row) : [h("p", { class: "note" }, "None among these queries.")]));
    chosen.forEach(([, row]) => row.querySelectorAll("canvas").forEach((canvas) => seen.observe(canvas)));
  }
  const wrong = spec.gallery.filter((query) => !right(query)).length;
  return h("div", {}, h("h3", {}, runName(spec.run)),
    h("p", { class: "note" }, `${spec.gallery.length} test sequences, ${wrong} of them picked because their nearest neighbour is wrong, so that their share here says nothing; over all, ${(100 * spec.accuracy).toFixed(1)} % are right.`),
    choices("Queries", kinds, show), list);
}

function item(found, kind, title, text) {
  return h("figure", { class: kind, title: found.name },
    stage(found.sequence, { height: 140, label: `${kind === "is-query" ? "query" : "neighbour"} ${readable(found.label)}, ${found.name}` }),
    h("figcaption", {}, title, text));
}
