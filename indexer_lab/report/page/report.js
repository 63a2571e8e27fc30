"use strict";
// Sorts a table by the column whose heading is pressed; pressed again, the other way around.
const said = document.getElementById("said");

function compare(a, b) {
  const x = Number(a), y = Number(b);
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return a.localeCompare(b, "en", { numeric: true });
}

function sort(table, column, head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].dataset.key;
  const known = [...body.rows].filter((row) => key(row) !== "");
  const unknown = [...body.rows].filter((row) => key(row) === "");
  known.sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)));
  body.append(...known, ...unknown);
  for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  said.textContent = `${table.caption.textContent}: sorted by ${head.textContent}, ` +
    (down ? "largest first" : "smallest first");
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sort(table, column, head));
  });
}

// Paper cannot be unfolded: what is folded is printed open, and folded again.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll(".verdict details:not([open])")];
  for (const each of folded) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of folded) each.open = false;
});
