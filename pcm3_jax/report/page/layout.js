// Sections, tables and the navigation of a page.
const main = document.getElementById("main");

function section(id, title, lead, ...content) {
  const parts = content.flat(Infinity).filter(Boolean);
  if (!parts.length) return;
  main.append(h("section", { id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, title), lead ? h("p", { class: "lead" }, lead) : null, parts));
  document.getElementById("nav").append(h("li", {}, h("a", { href: `#${id}` }, title)));
}

const empty = (text) => h("p", { class: "note" }, text);
const grid = (items, kind = "") => (items.length ? h("div", { class: `grid ${kind}` }, items) : null);
const isNumber = (text) => /^[–\-−\d.±\s,e]+$/.test(text);

function table(spec) {
  const kinds = spec.columns.map((_, i) => (i && spec.rows.every((row) => isNumber(row[i])) ? "number" : null));
  return scrolled(spec.title || "table", "", spec.columns.map((text, i) => h("th", { scope: "col", class: kinds[i] }, text)),
    spec.rows.map((row) => h("tr", {}, row.map((text, i) => h("td", { class: kinds[i] }, text)))), spec.title, spec.notes);
}

function scrolled(label, kind, heading, rows, title, notes = []) {
  return h("div", { class: `scroll ${kind}`, role: "region", tabindex: 0, "aria-label": label },
    h("table", {}, title && h("caption", {}, title), h("thead", {}, h("tr", {}, heading)), h("tbody", {}, rows)), notes.map(empty));
}

function key(...names) {
  const kinds = { left: ["--bone-left", "left"], right: ["--bone-right", "right"], trunk: ["--bone-trunk", "trunk"], predicted: ["--predicted", "predicted by the network"] };
  return h("p", { class: "key" }, names.map((name) => h("span", {}, h("i", { style: `--colour:var(${kinds[name][0]})` }), kinds[name][1])),
    h("span", {}, "Drag a skeleton to rotate all of them."));
}

// Marks the visible section in the navigation bar.
function follow() {
  const links = new Map([...document.querySelectorAll("#nav a")].map((a) => [a.hash.slice(1), a]));
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  document.querySelectorAll("main section").forEach((one) => watch.observe(one));
}
