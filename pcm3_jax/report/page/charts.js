// Curves of runs over optimizer steps, or of benchmarks over the number of frames in a step.
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step || 0);
  return found;
}

function range(values, padding) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  const room = (high - low) * padding || Math.abs(high) * 0.05 || 1;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

function chart(spec) {
  const last = spec.series.map((one) => `${one.label} ${number(one.points[one.points.length - 1][1])}`);
  // Listeners are on the holder, since its picture is replaced whenever the pointer moves.
  const holder = h("div", {
    class: "chart", role: "img", tabindex: 0,
    "aria-label": `${spec.title} by ${spec.across}; last values: ${last.join(", ")}. Arrow keys move along the curves.`,
    onpointermove: move, onpointerleave: () => set(null), onkeydown: key, onblur: () => set(null),
  });
  const values = spec.series.map(() => h("b"));
  const steps = [...new Set(spec.series.flatMap((one) => one.points.map((p) => p[0])))].sort((a, b) => a - b);
  let across = null;
  let cursor = null;
  let width = 0;

  function tell(step) {
    spec.series.forEach((one, i) => {
      const near = step === null ? one.points[one.points.length - 1] : nearest(one.points, step);
      values[i].textContent = near ? `${number(near[1])}${spec.unit ? ` ${spec.unit}` : ""}` : "";
    });
    caption.textContent = step === null ? "last values" : `${spec.across}: ${step.toLocaleString("en")}`;
  }

  function draw() {
    if (!width) return;
    const height = Math.max(170, Math.min(260, width * 0.56));
    const box = { left: 46, right: width - 10, top: 10, bottom: height - 38 };
    const all = spec.series.flatMap((one) => one.points);
    const [x0, x1] = [0, Math.max(1, ...all.map((p) => p[0]))];
    const [y0, y1] = range(all.map((p) => p[1]), 0.06);
    const x = (v) => box.left + (v - x0) / (x1 - x0) * (box.right - box.left);
    const y = (v) => box.bottom - (v - y0) / (y1 - y0) * (box.bottom - box.top);
    across = x;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
    for (const v of ticks(y0, y1, 4)) {
      picture.append(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: y(v), y2: y(v) }),
        svg("text", { x: box.left - 7, y: y(v) + 4, "text-anchor": "end" }, number(v)));
    }
    for (const v of ticks(x0, x1, width > 420 ? 6 : 4)) {
      picture.append(svg("text", { x: x(v), y: box.bottom + 17, "text-anchor": "middle" }, v.toLocaleString("en")));
    }
    picture.append(svg("text", { x: box.right, y: height - 4, "text-anchor": "end" }, spec.across));
    spec.series.forEach((one) => picture.append(...curve(one, x, y)));
    if (cursor !== null) {
      picture.append(svg("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: box.top, y2: box.bottom }));
      spec.series.forEach((one) => {
        const near = nearest(one.points, cursor);
        if (near) picture.append(svg("circle", { cx: x(near[0]), cy: y(near[1]), r: 4, style: `fill:${colourOf(one.run)}` }));
      });
    }
    holder.replaceChildren(picture);
  }

  function set(step) {
    if (step === cursor) return;
    cursor = step;
    tell(step);
    draw();
  }
  function move(event) {
    if (!across) return;
    const at = event.clientX - holder.getBoundingClientRect().left;
    set(steps.reduce((best, step) => (Math.abs(across(step) - at) < Math.abs(across(best) - at) ? step : best)));
  }
  function key(event) {
    const way = arrow(event);
    if (!way) return;
    const at = cursor === null ? (way > 0 ? -1 : steps.length) : steps.indexOf(cursor);
    set(steps[Math.max(0, Math.min(steps.length - 1, at + way))]);
  }

  const caption = h("span", { class: "note", "aria-live": "off" });
  tell(null);
  onWidth(holder, (pixels) => { width = pixels; draw(); });
  return h("figure", { class: "card", "data-figure": `curve_${spec.name}.png` },
    h("h3", {}, spec.title, h("span", { class: "note" }, spec.unit && ` (${spec.unit})`)),
    h("ul", { class: "legend" }, spec.series.map((one, i) => h("li", {}, line(one.run), one.label, values[i]))),
    holder, caption);
}

function nearest(points, step) {
  // A run has no value after its last step.
  const inside = points.filter((p) => p[0] <= step);
  if (step > points[points.length - 1][0] * 1.02 + 1) return null;
  return inside.length ? inside[inside.length - 1] : points[0];
}

function curve(one, x, y) {
  const style = `stroke:${colourOf(one.run)};stroke-dasharray:${dashOf(one.run)}`;
  const path = one.points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
  const dots = one.points.length > 12 ? [] : one.points.map((p) =>
    svg("circle", { cx: x(p[0]), cy: y(p[1]), r: 3, style: `fill:${colourOf(one.run)}` }));
  return [svg("path", { d: path, style }), ...dots];
}

function line(run) {
  return svg("svg", { class: "swatch", viewBox: "0 0 24 8", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 24, y1: 4, y2: 4, style: `stroke:${colourOf(run)};stroke-width:3;stroke-dasharray:${dashOf(run)}` }));
}
