"use strict";
// Sorting: headers become buttons only where a script runs, so that nothing lies without one.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [key(row), row]);
      const numeric = rows.every(([k]) => k !== "" && !Number.isNaN(toNumber(k)));
      rows.sort(([a], [b]) => (numeric ? toNumber(a) - toNumber(b) : a.localeCompare(b)));
      if (down) rows.reverse();
      body.append(...rows.map(([, row]) => row));
    });
  });
}
function toNumber(text) {
  return Number(text === "-inf" ? -Infinity : text === "inf" ? Infinity : text);
}
// Viewer: arrow keys flip between arms (left, right) and between prompts (up, down).
const viewer = document.getElementById("viewer");
const shots = [...document.querySelectorAll("button.shot")];
let at = 0;
function show(index) {
  at = index;
  const shot = shots[at];
  viewer.querySelector("img").src = shot.querySelector("img").src;
  viewer.querySelector("img").alt = shot.querySelector("img").alt;
  viewer.querySelector(".prompt").textContent = shot.dataset.of;
  viewer.querySelector(".label").textContent = shot.dataset.label;
}
function find(row, column) {
  return shots.findIndex((s) => Number(s.dataset.row) === row && Number(s.dataset.column) === column);
}
function step(rows, columns) {
  const row = Number(shots[at].dataset.row), column = Number(shots[at].dataset.column);
  const inRow = shots.filter((s) => Number(s.dataset.row) === row).length;
  const next = find(row + rows, columns ? (column + columns + inRow) % inRow : column);
  if (next >= 0) show(next);
}
shots.forEach((shot, index) => shot.addEventListener("click", () => { show(index); viewer.showModal(); }));
viewer.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (!(event.key in moves)) return;
  event.preventDefault();
  step(...moves[event.key]);
});
viewer.addEventListener("click", (event) => {
  const { step: by, close } = event.target.dataset;
  if (by) step(0, Number(by));
  if (close !== undefined || event.target === viewer) viewer.close();
});
viewer.addEventListener("close", () => shots[at]?.focus());
