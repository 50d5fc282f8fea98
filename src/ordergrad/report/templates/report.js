"use strict";
// Tables: a click or Enter on a heading sorts by its column, again turns the order round.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const first = column === 0 ? "ascending" : "descending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? second : first;
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", order);
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.order;
      const numeric = [...body.rows].every((row) => key(row) === "" || Number.isFinite(Number(key(row))));
      const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return order === "ascending" ? compare(x, y) : compare(y, x);
      });
      body.append(...rows);
    });
  });
}
// Legends: a button hides and shows one contender in all figures of its section.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const hidden = button.closest(".run").classList.toggle("hide-" + button.dataset.series);
    button.setAttribute("aria-pressed", String(!hidden));
  });
}
// Paper cannot be unfolded.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
