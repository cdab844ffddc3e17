// Animated skeletons.  One clock drives all of them; only visible ones are drawn.
const PARENTS = REPORT.skeleton.parents;
const JOINTS = PARENTS.length;
const NAMES = REPORT.skeleton.names;
const MISSING = -32768;
const NEAR = 14; // pixels from the pointer to a joint whose name is shown
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

// Coordinates are decoded on first use; those of missing joints are NaN.
function unpacked(index) {
  const sequence = REPORT.sequences[index];
  if (!sequence.points) {
    const raw = new Int16Array(bytes(sequence.data).buffer);
    sequence.points = Float32Array.from(raw, (value) => (value === MISSING ? NaN : value * sequence.scale));
    sequence.box = boundingBox(sequence);
    sequence.parents = parentsIn(sequence);
  }
  return sequence;
}

// A coordinate triple as [across, up, depth], seen from the front.
function oriented(sequence, at) {
  const p = sequence.points;
  return sequence.up === 2 ? [-p[at], p[at + 2], p[at + 1]] : [-p[at], p[at + 1], -p[at + 2]];
}

function boundingBox(sequence) {
  const all = [];
  for (let at = 0; at < sequence.points.length; at += 3) {
    if (!Number.isNaN(sequence.points[at])) all.push(oriented(sequence, at));
  }
  const end = (better, axis) => all.reduce((best, p) => better(best, p[axis]), all[0][axis]);
  const [low, high] = [Math.min, Math.max].map((better) => [0, 1, 2].map((axis) => end(better, axis)));
  const [cx, , cz] = low.map((value, axis) => (value + high[axis]) / 2);
  const reach = all.reduce((most, [x, , z]) => Math.max(most, Math.hypot(x - cx, z - cz)), 0.2);
  return { cx, cz, low: low[1], high: high[1], reach };
}

// Where each joint's bone starts: at the next joint towards the root that the sequence has.
function parentsIn(sequence) {
  const has = PARENTS.map((_, j) => {
    for (let at = 3 * j; at < sequence.points.length; at += 3 * JOINTS) {
      if (!Number.isNaN(sequence.points[at])) return true;
    }
    return false;
  });
  return PARENTS.map((parent) => {
    while (!has[parent] && PARENTS[parent] !== parent) parent = PARENTS[parent];
    return parent;
  });
}

// A canvas with a skeleton.  Options: height; hidden, flags (T × 25) of joints that are left out
// or, with `predicted`, drawn as a prediction; frame, the number of the sequence whose bounding
// box sets the scale; label for screen readers; follow(share), called with the share of the
// sequence, 0 to 1, that is drawn.
function stage(index, options = {}) {
  const canvas = h("canvas", {
    class: "stage", role: "img", "aria-label": options.label || "animated skeleton",
    style: `height:${options.height || 150}px`,
    onpointerdown: (event) => { player.turnedFrom = event.clientX; canvas.setPointerCapture(event.pointerId); },
    onpointermove: (event) => (event.buttons ? turn(event) : point(one, [event.offsetX, event.offsetY])),
    onpointerleave: () => point(one, null),
  });
  const one = { canvas, index, options, context: null, width: 0, flags: null, pointer: null, seconds: REPORT.sequences[index].seconds };
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

// Names the joint under the pointer, in this and all later drawings.
function point(one, place) {
  one.pointer = place;
  if (!player.playing) render(one);
}

function turn(event) {
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
  const all = [];
  for (let person = 0; person < sequence.persons; person++) {
    const hidden = (j) => person === 0 && one.flags && one.flags[Math.round(time) * JOINTS + j];
    all.push(pose(sequence, time, project, person));
    draw(context, all[person], sequence.parents, hidden, options.predicted, person);
  }
  if (one.pointer) nameJoint(one, all.flat());
  options.follow?.(share);
}

// Writes the name of the joint that is nearest to the pointer, if one is near.
function nameJoint(one, joints) {
  const distance = ([x, y]) => Math.hypot(x - one.pointer[0], y - one.pointer[1]);
  let best = -1;
  joints.forEach((place, i) => {
    if (distance(place) < (best < 0 ? NEAR : distance(joints[best]))) best = i;
  });
  if (best < 0) return;
  const { context } = one;
  const [x, y] = joints[best];
  const text = `${readable(NAMES[best % JOINTS])} (${best % JOINTS})`;
  context.font = "13px system-ui, sans-serif";
  const width = context.measureText(text).width + 10;
  const left = Math.max(0, Math.min(one.width - width, x - width / 2));
  const top = y > 34 ? y - 30 : y + 10;
  context.strokeStyle = context.fillStyle = cssColour("--ink");
  context.lineWidth = 1.5;
  context.beginPath();
  context.arc(x, y, 6, 0, 7);
  context.stroke();
  context.fillRect(left, top, width, 20);
  context.fillStyle = cssColour("--card");
  context.fillText(text, left + 5, top + 14.5);
}

const partOf = (j) => (LEFT.has(j) ? "--bone-left" : RIGHT.has(j) ? "--bone-right" : "--bone-trunk");

function draw(context, joints, parents, hidden, predicted, person) {
  const missing = (j) => Number.isNaN(joints[j][0]);
  context.lineCap = "round";
  context.lineWidth = 2.6;
  context.globalAlpha = person ? 0.6 : 1;
  parents.forEach((parent, j) => {
    const gone = hidden(j) || hidden(parent);
    if (parent === j || missing(j) || missing(parent) || (gone && !predicted)) return;
    context.strokeStyle = cssColour(gone ? "--predicted" : partOf(j));
    context.beginPath();
    context.moveTo(...joints[j]);
    context.lineTo(...joints[parent]);
    context.stroke();
  });
  joints.forEach(([x, y], j) => {
    if (missing(j) || (hidden(j) && !predicted)) return;
    context.fillStyle = cssColour(hidden(j) ? "--predicted" : partOf(j));
    context.beginPath();
    context.arc(x, y, j === 3 ? 4.5 : 2.1, 0, 7);
    context.fill();
  });
  context.globalAlpha = 1;
}

// Starts or stops all animations.
function play(playing) {
  player.playing = playing;
  player.button.textContent = playing ? "❚❚ Pause" : "▶ Play";
  player.button.setAttribute("aria-label", playing ? "Pause all animations" : "Play all animations");
}

function playerControls() {
  player.button = h("button", { type: "button", onclick: () => play(!player.playing) });
  play(player.playing);
  const slider = h("input", {
    type: "range", id: "yaw", min: -180, max: 180, value: Math.round(player.yaw * 180 / Math.PI),
    oninput: (event) => { player.yaw = event.target.value * Math.PI / 180; angle(); },
  });
  return [h("label", {}, "Viewpoint", slider), player.button];
}
