"use strict";
const root = document.documentElement;
const byId = (id) => document.getElementById(id);
root.classList.add("js");

// Tables: a click or Enter on a heading sorts upwards, then downwards, then as the table was given. Groups stay together.
function key(row, column, isNumber) {
  const cell = row.cells[column];
  const text = (cell.firstChild ? cell.firstChild.textContent : "").trim() || cell.textContent.trim();
  if (text === "" || text === "–") return null;
  return isNumber ? parseFloat(text.replace(/^< /, "").replace("−", "-").replaceAll(",", "")) : cell.textContent.trim();
}
const words = new Intl.Collator("en", { numeric: true });
function compared(left, right, direction) {
  if (left === null || right === null) return (left === null) - (right === null);
  return direction * (typeof left === "number" ? left - right : words.compare(left, right));
}
function sortTable(table, given, column, state) {
  const heads = [...table.tHead.rows[0].cells];
  const isNumber = heads[column].classList.contains("number");
  const direction = { ascending: 1, descending: -1, none: 0 }[state];
  heads.forEach((head, index) => head.setAttribute("aria-sort", index === column ? state : "none"));
  for (const [body, rows] of given) {
    const keyed = rows.map((row) => [key(row, column, isNumber), row]);
    if (direction) keyed.sort((left, right) => compared(left[0], right[0], direction));
    body.append(...keyed.map((entry) => entry[1]));
  }
}
for (const table of document.querySelectorAll("table")) {
  const given = [...table.tBodies].map((body) => [body, [...body.rows].filter((row) => !row.classList.contains("group"))]);
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    const next = { none: "ascending", ascending: "descending", descending: "none" };
    button.addEventListener("click", () => sortTable(table, given, column, next[head.getAttribute("aria-sort")]));
  });
}

// Navigation: a menu on small screens, and a mark at the section that is read.
const menu = byId("menu");
const contents = byId("contents");
const setMenu = (open) => menu.setAttribute("aria-expanded", String(open));
menu.hidden = false;
menu.addEventListener("click", () => setMenu(menu.getAttribute("aria-expanded") !== "true"));
contents.addEventListener("click", (event) => event.target.closest("a") && setMenu(false));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && menu.getAttribute("aria-expanded") === "true") {
    setMenu(false);
    menu.focus();
  }
});
const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver((entries) => {
  const entered = entries.filter((entry) => entry.isIntersecting).pop();
  if (entered === undefined) return;
  for (const link of links.values()) link.removeAttribute("aria-current");
  links.get(entered.target.id).setAttribute("aria-current", "true");
}, { rootMargin: "-20% 0px -75% 0px" });
for (const section of document.querySelectorAll("main > section")) reading.observe(section);

// Comparison of two pictures of one image under a slider.
const panels = [...document.querySelectorAll("#gallery img")];
if (panels.length > 0) {
  const box = byId("compare");
  const [image, left, right, at] = ["image", "left", "right", "at"].map((name) => byId(`compare-${name}`));
  const fill = (select, names) => select.append(...names.map((name) => new Option(name, name)));
  const titles = [...new Set(panels.map((panel) => panel.dataset.title))];
  const predicted = titles.filter((title) => panels.some((panel) => panel.dataset.title === title && "predicted" in panel.dataset));
  fill(image, [...new Set(panels.map((panel) => panel.dataset.image))]);
  fill(left, titles);
  fill(right, titles);
  left.value = predicted[1] ?? predicted[0];
  right.value = titles.includes("ground truth") ? "ground truth" : titles[0];
  const stage = box.querySelector(".stage");
  const sides = [[right, "right", new Image()], [left, "left", new Image()]];
  for (const [, side, shown] of sides) shown.className = side;
  stage.prepend(...sides.map(([, , shown]) => shown));
  const show = () => {
    for (const [select, side, shown] of sides) {
      const panel = panels.find((panel) => panel.dataset.image === image.value && panel.dataset.title === select.value);
      shown.src = panel.src;
      shown.alt = panel.alt;
      shown.classList.toggle("photograph", panel.dataset.title === "image");
      stage.querySelector(`.name.${side}`).textContent = select.value;
      stage.style.aspectRatio = `${panel.getAttribute("width")} / ${panel.getAttribute("height")}`;
    }
  };
  [image, left, right].forEach((select) => select.addEventListener("change", show));
  at.addEventListener("input", () => stage.style.setProperty("--at", `${at.value}%`));
  show();
  box.hidden = false;
}

// Runs: only those whose text has every word that is asked for.
const filter = byId("run-filter");
const made = byId("made");
const listed = [...made.querySelectorAll("details.run")];
const texts = listed.map((entry) => entry.textContent.toLowerCase());
const runRows = [...document.querySelectorAll("#runs-table tbody tr")]; // the table is given in the order of the list
filter.addEventListener("input", () => {
  const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  listed.forEach((entry, index) => {
    entry.hidden = !wanted.every((word) => texts[index].includes(word));
    if (runRows[index]) runRows[index].hidden = entry.hidden;
  });
  if (wanted.length > 0) made.open = true;
  const left = listed.filter((element) => !element.hidden).length;
  byId("run-count").textContent = wanted.length > 0 ? `${left} of ${listed.length}` : "";
});
filter.closest("p").hidden = false;
