// Animated skeletons.  One clock drives all of them; only visible ones are drawn.
const PARENTS = REPORT.skeleton.parents;
const JOINTS = PARENTS.length;
const LEFT = new Set(REPORT.skeleton.left);
const RIGHT = new Set(REPORT.skeleton.right);
const visible = new Set();
const player = {
  playing: !window.matchMedia("(prefers-reduced-motion: reduce)").matches,
  time: 1.2,
  yaw: 0.45,
};

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

// Coordinates are decoded on first use.
function unpacked(index) {
  const sequence = REPORT.sequences[index];
  if (!sequence.points) {
    const raw = new Int16Array(bytes(sequence.data).buffer);
    sequence.points = Float32Array.from(raw, (value) => value * sequence.scale);
    sequence.box = boundingBox(sequence);
  }
  return sequence;
}

// A coordinate triple as [across, up, depth], seen from the front.
function oriented(sequence, at) {
  const p = sequence.points;
  return sequence.up === 2 ? [-p[at], p[at + 2], p[at + 1]] : [p[at], p[at + 1], -p[at + 2]];
}

function boundingBox(sequence) {
  const all = [];
  for (let at = 0; at < sequence.points.length; at += 3) all.push(oriented(sequence, at));
  const [low, high] = [Math.min, Math.max].map((end) => [0, 1, 2].map((axis) => end(...all.map((p) => p[axis]))));
  const [cx, , cz] = low.map((value, axis) => (value + high[axis]) / 2);
  const reach = Math.max(0.2, ...all.map(([x, , z]) => Math.hypot(x - cx, z - cz)));
  return { cx, cz, low: low[1], high: high[1], reach };
}

// A canvas with a skeleton.  Options: height; hidden, flags (T × 25) of joints that are left out
// or, with `predicted`, drawn as a prediction; frame, the number of the sequence whose bounding
// box sets the scale; label for screen readers.
function stage(index, options = {}) {
  const canvas = h("canvas", {
    class: "stage", role: "img", "aria-label": options.label || "animated skeleton",
    style: `height:${options.height || 150}px`,
    onpointerdown: (event) => { player.turnedFrom = event.clientX; canvas.setPointerCapture(event.pointerId); },
    onpointermove: turn,
  });
  const one = { canvas, index, options, context: null, width: 0, flags: null, seconds: REPORT.sequences[index].seconds };
  canvas.stage = one;
  onWidth(canvas, (width) => {
    one.width = width;
    one.context = sized(canvas, width, options.height || 150);
    render(one);
  });
  seen.observe(canvas);
  return canvas;
}

function panel(sequence, options, title, text, attributes = {}) {
  return h("figure", attributes, stage(sequence, options), h("figcaption", {}, title, text));
}

function turn(event) {
  if (!event.buttons) return;
  player.yaw += (event.clientX - player.turnedFrom) * 0.012;
  player.turnedFrom = event.clientX;
  angle();
}

function angle() {
  player.yaw = Math.atan2(Math.sin(player.yaw), Math.cos(player.yaw));
  const slider = document.getElementById("yaw");
  if (slider) slider.value = Math.round(player.yaw * 180 / Math.PI);
  if (!player.playing) visible.forEach(render);
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) visible.add(target.stage);
    else visible.delete(target.stage);
    if (isIntersecting) render(target.stage);
  }
}, { rootMargin: "80px" });

// Also called by figures.py.
function showAt(seconds) {
  player.time = seconds;
  visible.forEach(render);
}

let before = 0;
function tick(now) {
  // After the page was hidden, the animation resumes where it stopped.
  if (player.playing) showAt(player.time + Math.min(now - before, 100) / 1000);
  before = now;
  requestAnimationFrame(tick);
}
requestAnimationFrame(tick);
onTheme(() => visible.forEach(render));

// Joints between two frames of a sequence, as [across, up] in pixels.
function pose(sequence, time, project, person) {
  const at = Math.min(time, sequence.frames - 1);
  const [first, share] = [Math.floor(at), at - Math.floor(at)];
  const second = Math.min(first + 1, sequence.frames - 1);
  const offset = (t) => (t * sequence.persons + person) * JOINTS * 3;
  return PARENTS.map((_, j) => {
    const a = oriented(sequence, offset(first) + 3 * j);
    const b = oriented(sequence, offset(second) + 3 * j);
    return project(a.map((v, i) => v + (b[i] - v) * share));
  });
}

function projection(one, height) {
  const box = unpacked(one.options.frame ?? one.index).box;
  const scale = Math.min(one.width / (2 * box.reach), height / (box.high - box.low + 0.05)) * 0.9;
  const [c, s] = [Math.cos(player.yaw), Math.sin(player.yaw)];
  const middle = (box.low + box.high) / 2;
  return ([x, y, z]) => [
    one.width / 2 + ((x - box.cx) * c - (z - box.cz) * s) * scale,
    height / 2 - (y - middle) * scale,
  ];
}

function render(one) {
  if (!one.context) return;
  const height = one.options.height || 150;
  const sequence = unpacked(one.index);
  const project = projection(one, height);
  // A pause at the end marks the start of the next repetition.
  const period = sequence.seconds + 0.6;
  const share = Math.min((player.time % period) / sequence.seconds, 1);
  const time = share * (sequence.frames - 1);
  const { context, options } = one;
  if (options.hidden && !one.flags) one.flags = bytes(options.hidden);
  context.clearRect(0, 0, one.width, height);
  for (let person = 0; person < sequence.persons; person++) {
    const hidden = (j) => person === 0 && one.flags && one.flags[Math.round(time) * JOINTS + j];
    draw(context, pose(sequence, time, project, person), hidden, options.predicted, person);
  }
}

const partOf = (j) => (LEFT.has(j) ? "--bone-left" : RIGHT.has(j) ? "--bone-right" : "--bone-trunk");

function draw(context, joints, hidden, predicted, person) {
  context.lineCap = "round";
  context.lineWidth = 2.6;
  context.globalAlpha = person ? 0.6 : 1;
  PARENTS.forEach((parent, j) => {
    const gone = hidden(j) || hidden(parent);
    if (parent === j || (gone && !predicted)) return;
    context.strokeStyle = cssColour(gone ? "--predicted" : partOf(j));
    context.beginPath();
    context.moveTo(...joints[j]);
    context.lineTo(...joints[parent]);
    context.stroke();
  });
  joints.forEach(([x, y], j) => {
    if (hidden(j) && !predicted) return;
    context.fillStyle = cssColour(hidden(j) ? "--predicted" : partOf(j));
    context.beginPath();
    context.arc(x, y, j === 3 ? 4.5 : 2.1, 0, 7);
    context.fill();
  });
  context.globalAlpha = 1;
}

function playerControls() {
  const button = h("button", { type: "button", onclick: () => press(!player.playing) });
  function press(playing) {
    player.playing = playing;
    button.textContent = playing ? "❚❚ Pause" : "▶ Play";
    button.setAttribute("aria-label", playing ? "Pause all animations" : "Play all animations");
  }
  press(player.playing);
  const slider = h("input", {
    type: "range", id: "yaw", min: -180, max: 180, value: Math.round(player.yaw * 180 / Math.PI),
    oninput: (event) => { player.yaw = event.target.value * Math.PI / 180; angle(); },
  });
  return [h("label", {}, "Viewpoint", slider), button];
}
