"use strict";
// Draws each chart when its place is first open, and all that are open at once before printing.
// `ast` lets Vega interpret its expressions: the page's policy forbids making code of text.
(() => {
  const { config, specs } = JSON.parse(document.getElementById("charts").textContent);
  const options = { actions: false, renderer: "svg", ast: true, config, theme: undefined };
  const draw = (place) => {
    if (place.dataset.state) return;
    place.dataset.state = "drawing";
    vegaEmbed(place, specs[place.dataset.chart], options)
      .then(() => { place.dataset.state = "drawn"; })
      .catch((error) => {
        place.dataset.state = "failed";
        place.textContent = `This chart cannot be drawn (${error.message}); its numbers are below.`;
      });
  };
  const drawOpen = () => {
    for (const place of document.querySelectorAll(".chart")) {
      if (!place.closest("details:not([open])")) draw(place);
    }
  };
  document.addEventListener("toggle", drawOpen, true);
  drawOpen();
})();
