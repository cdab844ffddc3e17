// The page of `pcm3_jax.show`: a section for each recording.
const STAGE = 300;

// What a recording's drawings, slider and chart share: its frame, from 0.  Moving it stops all
// animations.
function timeline(one) {
  const listeners = [];
  const last = Math.max(one.frames - 1, 1);
  return {
    last,
    listen: (call) => listeners.push(call),
    follow: (share) => listeners.forEach((call) => call(share * last)),
    seek(frame) {
      play(false);
      showAt((Math.max(0, Math.min(last, frame)) / last) * one.seconds);
    },
  };
}

function slider(one, time) {
  const input = h("input", { type: "range", min: 0, max: time.last, value: 0, "aria-label": `frame of ${one.title}`,
    oninput: () => time.seek(Number(input.value)) });
  const text = h("p", { class: "note" });
  time.listen((frame) => {
    input.value = Math.round(frame);
    text.textContent = `frame ${Math.round(frame)} of ${one.frames}`;
  });
  return h("div", { class: "slider" }, input, text);
}

// The model's labels: a band of the most probable one, and the probabilities.
function labels(one, time) {
  const { band, series, at, note } = one.labels;
  const names = series.map((line) => line.label);
  const colour = (label) => (names.includes(label) ? colourOf(names.indexOf(label)) : "var(--soft)");
  const values = series.map(() => h("b"));
  const lines = at.length ? 110 : 0;
  const height = 26 + lines;
  const across = (width) => (frame) => 8 + (Math.max(0, Math.min(time.last, frame)) / time.last) * (width - 16);
  const up = (share) => 42 + (1 - share) * (lines - 20);
  const cursor = svg("line", { class: "cursor", y1: 0, y2: height });
  let x = null;
  let shown = 0;
  function segment({ start, stop, label, share }) {
    const [left, right] = [x(start), x(stop)];
    const text = readable(label ?? "nothing");
    const room = Math.floor((right - left - 10) / 6.6);
    return svg("g", {}, svg("title", {}, `${text}, ${(100 * share).toFixed(0)} %`),
      svg("rect", { x: left, width: Math.max(right - left - 1, 1), y: 0, height: 22, rx: 3,
        style: `fill:${label === null ? "var(--line)" : colour(label)}` }),
      room > 3 ? svg("text", { class: label === null ? "" : "on", x: left + 5, y: 15 }, text.length > room ? `${text.slice(0, room - 1)}…` : text) : null);
  }
  function draw(width) {
    x = across(width);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" }, band.map(segment));
    for (const share of lines ? [0, 0.5, 1] : []) {
      picture.append(svg("line", { class: "axis", x1: 8, x2: width - 8, y1: up(share), y2: up(share) }),
        svg("text", { x: 8, y: up(share) - 3 }, `${100 * share} %`));
    }
    if (lines) series.forEach((line, i) => picture.append(svg("path", { style: `stroke:${colourOf(i)}`,
      d: line.values.map((value, n) => `${n ? "L" : "M"}${x(at[n]).toFixed(1)} ${up(value).toFixed(1)}`).join("") })));
    picture.append(cursor);
    holder.replaceChildren(picture);
    move(shown);
  }
  function move(frame) {
    shown = frame;
    if (x) [1, 2].forEach((end) => cursor.setAttribute(`x${end}`, x(frame)));
    if (!lines) return;
    const near = at.reduce((best, place, i) => (Math.abs(place - frame) < Math.abs(at[best] - frame) ? i : best), 0);
    series.forEach((line, i) => { values[i].textContent = `${(100 * line.values[near]).toFixed(0)} %`; });
  }
  const seek = (event) => x && time.seek((event.offsetX - 8) / (holder.clientWidth - 16) * time.last);
  const told = band.map(({ start, stop, label }) => `${readable(label ?? "nothing")} in frames ${Math.round(start)} to ${Math.round(stop)}`);
  const holder = h("div", { class: "chart", role: "img", "aria-label": `Labels over time: ${told.join(", ")}`,
    onpointerdown: seek, onpointermove: (event) => event.buttons && seek(event) });
  onWidth(holder, draw);
  time.listen(move);
  return h("div", {}, holder,
    h("ul", { class: "legend" }, series.map((line, i) => h("li", {}, h("i", { style: `--colour:${colourOf(i)}` }), readable(line.label), values[i]))),
    empty(note));
}

function rows(caption, list) {
  return h("table", {}, h("caption", {}, caption),
    h("tbody", {}, list.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, value)))));
}

function facts(one) {
  const whole = one.whole && rows(`Label of ${one.whole.of}`, one.whole.labels.map(([label, share]) => [readable(label), `${(100 * share).toFixed(1)} %`]));
  return h("div", { class: "facts" },
    one.warnings.length ? h("div", { class: "warnings card", role: "note" }, h("h4", {}, "What looks wrong"), h("ul", {}, one.warnings.map((text) => h("li", {}, text)))) : null,
    whole, rows("Body in metres", one.measures));
}

function neighbours(one) {
  const item = (found) => {
    const right = one.label !== null && found.label !== null ? found.label === one.label : null;
    const kind = right === null ? "" : right ? "right" : "wrong";
    return panel(found.sequence, { height: 150, label: `neighbour ${found.title}` },
      h("b", { class: kind }, `${right === null ? "" : right ? "✓ " : "✗ "}${found.label === null ? found.title : readable(found.label)}`),
      `cosine ${found.cosine.toFixed(3)}`, { class: kind && `is-${kind}`, title: found.name });
  };
  return one.neighbours.length ? h("div", { class: "whole" }, h("h3", {}, "Nearest recordings"), h("div", { class: "nearest" }, one.neighbours.map(item))) : null;
}

function recording(one, index) {
  const time = timeline(one);
  const drawn = one.panels.map((part, i) => panel(part.sequence, { height: STAGE, label: `${part.title}: ${one.title}`,
    follow: i ? null : time.follow }, h("b", {}, part.title), part.text));
  const about = [one.label === null ? null : readable(one.label), one.from, `${one.frames.toLocaleString("en")} frames`,
    one.persons > 1 ? `${one.persons} persons` : null];
  section(`recording-${index}`, one.title, about.filter(Boolean).join(" · "),
    h("div", { class: "card recording" },
      h("div", {}, h("div", { class: "panels" }, drawn), slider(one, time), one.labels ? labels(one, time) : null),
      facts(one),
      neighbours(one)));
}

main.append(h("h1", {}, REPORT.heading), h("p", { class: "lead" }, REPORT.lead), key("left", "right", "trunk"));
REPORT.recordings.forEach(recording);
document.getElementById("controls").append(...playerControls());
document.getElementById("footer").append(`Written ${REPORT.created} by pcm3_jax ${REPORT.version}: python -m pcm3_jax.show`);
follow();
