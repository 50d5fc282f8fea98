// A table can be reached by the keyboard only where it is wider than the page.
const fit = new ResizeObserver((entries) => {
  for (const { target } of entries) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
});
document.querySelectorAll(".scroll").forEach((table) => fit.observe(table));
