// The sections of the report.
function runCard(run, index) {
  const facts = run.facts.map(([name, value]) => h("div", {}, h("b", {}, value), h("span", {}, name)));
  return h("article", { class: "card run", style: `--colour:${colourOf(index)}` },
    h("h3", {}, run.name),
    [run.task, run.data, run.stream && `${run.stream} stream`, `seed ${run.seed}`]
      .filter(Boolean)
      .map((text) => h("span", { class: "tag" }, text)),
    facts.length ? h("div", { class: "facts" }, facts) : null,
    h("p", { class: "note" }, `${run.status}${run.steps ? ` · ${run.steps.toLocaleString("en")} steps` : ""} · ${run.date}`),
    run.encoder ? h("p", { class: "note" }, run.encoder) : null,
    h("p", { class: "note mono" }, run.path));
}

function settings() {
  const { runs, rows } = REPORT.settings;
  const holder = h("div");
  const search = h("input", { type: "search", placeholder: "Find a setting", "aria-label": "Find a setting", oninput: () => show() });
  const kinds = { differs: (row) => row.differs, changed: (row) => row.changed || row.differs, all: () => true };
  let kind = "changed";
  function show() {
    const word = search.value.trim().toLowerCase();
    // A search covers all settings, not only those of the chosen kind.
    const chosen = rows.filter((row) => (word ? row.key.toLowerCase().includes(word) : kinds[kind](row)));
    const lines = chosen.map((row) => h("tr", { class: row.differs ? "differs" : null },
      h("th", { scope: "row", class: "mono" }, row.key), h("td", {}, row.default),
      row.values.map((value) => h("td", { class: value !== row.default ? "changed" : null }, value))));
    const heading = ["setting", "paper", ...runs].map((text) => h("th", { scope: "col" }, text));
    holder.replaceChildren(lines.length ? scrolled("settings", "settings", heading, lines) : empty("No setting matches."));
  }
  const count = (name) => rows.filter(kinds[name]).length;
  const options = [["changed", `Different from the paper (${count("changed")})`], ["all", `All (${rows.length})`]];
  if (runs.length > 1) options.unshift(["differs", `Different between the runs (${count("differs")})`]);
  const buttons = choices("Settings", options, (value) => { kind = value; show(); });
  buttons.append(search);
  return [buttons, holder];
}

function masked(spec) {
  const rows = spec.rows.map((row) => {
    const { hidden, truth } = row;
    const shown = (title, text, sequence, options) =>
      panel(sequence, { height: 190, frame: truth, label: `${title}: ${readable(row.label)}`, ...options }, h("b", {}, title), text);
    return h("div", { class: "card", "data-figure": `masked_${runName(spec.run)}_${row.name}.gif` }, h("h3", { title: row.name }, readable(row.label)), h("div", { class: "panels" },
      shown("Masked input", "what the network sees", truth, { hidden }),
      spec.steps.map((step, i) => shown(`Step ${step.toLocaleString("en")}`, `error ${row.errors[i].toFixed(1)} cm`, row.predicted[i], { hidden, predicted: true })),
      shown("Truth", `error of keeping the last seen position: ${row.holding.toFixed(1)} cm`, truth, {})));
  });
  const how = {
    joint: "",
    bone: " The network predicts bones, which are added up from the spine at the shoulders, the root.",
    motion: " The network predicts displacements, which are added up from where a joint was last seen.",
  }[spec.stream];
  return [h("h3", {}, runName(spec.run)), h("p", { class: "note" }, `Error: mean distance of hidden joints from the truth, in evaluation mode (BatchNorm's running statistics, no prompts).${how}`), h("div", { class: "stack" }, rows)];
}

function views(spec) {
  return [h("h3", {}, runName(spec.run)),
    h("p", { class: "note" }, `${readable(spec.label)} (${spec.name}), mixed with ${readable(spec.partner)}; shown as joints, all at the same speed.`),
    h("div", { class: "stack" }, h("div", { class: "card panels", "data-figure": `views_${runName(spec.run)}.gif` }, spec.panels.map((one) =>
      panel(one.sequence, { height: 190, hidden: one.hidden, label: one.title }, h("b", {}, one.title), one.text))))];
}

function build() {
  const { runs, charts, tables } = REPORT;
  main.append(h("h1", {}, runs.length === 1 ? runs[0].name : "Runs side by side"),
    h("p", { class: "lead" }, `PCM³: ${[...new Set(runs.map((run) => run.data))].join(", ") || "benchmarks"} · ${runs.length} ${runs.length === 1 ? "run" : "runs"} · ${REPORT.created}`),
    grid(runs.map(runCard), "runs") ?? "");
  if (REPORT.warnings.length) {
    main.append(h("div", { class: "card warnings", role: "note" }, h("h3", {}, "Warnings"),
      h("ul", {}, REPORT.warnings.map((text) => h("li", {}, text)))));
  }
  if (REPORT.notes.length) main.append(h("ul", { class: "notes" }, REPORT.notes.map((text) => h("li", {}, text))));
  section("learning", "Learning", "", grid(charts.learning.filter((one) => one.large).map(chart)),
    grid(charts.learning.filter((one) => !one.large).map(chart), "small"),
    charts.learning.length ? null : empty("No run has logged a step."));
  section("results", "Results", "", tables.length ? tables.map((one) => table(one)) : empty("No run has finished."));
  section("confusions", "Confusion matrices", "", grid(REPORT.confusions.map(confusion), "wide"));
  section("map", "Embeddings", "Hover over or tap a point, or use the arrow keys, to see its sequence.", REPORT.encoders.map(classMap));
  section("neighbours", "Neighbours", "Test sequences and their five nearest training sequences by cosine similarity of the features.",
    REPORT.encoders.length ? key("left", "right", "trunk") : null, REPORT.encoders.map(gallery));
  section("masked", "Masked prediction", "Masked prediction on test sequences, with the same masks at every checkpoint.",
    REPORT.masked.length ? key("left", "right", "trunk", "predicted") : null, REPORT.masked.map(masked));
  section("views", "Views", "The views of a training sequence in one pretraining step.", REPORT.views.map(views));
  section("speed", "Speed", "", grid(charts.machine.map(chart)));
  section("settings", "Settings", "", runs.length ? settings() : null);
  section("provenance", "Provenance", "Code version, packages, device and data of each run's last start.",
    REPORT.provenance ? table(REPORT.provenance) : empty("No run has a provenance.json."));
  document.getElementById("controls").append(...playerControls());
  document.getElementById("footer").append(`Written ${REPORT.created} by pcm3_jax ${REPORT.version}: python -m pcm3_jax.report`);
  follow();
}

build();
