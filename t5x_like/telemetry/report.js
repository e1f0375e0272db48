// Shows, under the pointer, the values of a chart's series at the nearest logged step.
for (const figure of document.querySelectorAll("figure[data-series]")) {
  const series = JSON.parse(figure.dataset.series);
  const plot = figure.querySelector(".plot");
  const line = figure.querySelector(".pointer");
  const step = figure.querySelector(".step");
  const values = [...figure.querySelectorAll(".value")];
  const latest = values.map((value) => value.textContent);
  const { left, width, last } = figure.dataset;

  const nearest = (steps, wanted) => {
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < wanted) low = middle + 1; else high = middle;
    }
    return low > 0 && wanted - steps[low - 1] < steps[low] - wanted ? low - 1 : low;
  };

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width - left) / width;
    const wanted = Math.min(Math.max(share, 0), 1) * last;
    const dense = series.reduce((a, b) => (b[0].length > a[0].length ? b : a));
    const shown = dense[0][nearest(dense[0], wanted)];
    line.style.left = `${100 * (+left + (width * shown) / last)}%`;
    line.hidden = false;
    step.textContent = `step ${shown.toLocaleString("en")}`;
    series.forEach(([steps, texts], i) => { values[i].textContent = texts[nearest(steps, shown)]; });
  });
  plot.addEventListener("pointerleave", () => {
    line.hidden = true;
    step.textContent = "";
    values.forEach((value, i) => { value.textContent = latest[i]; });
  });
}
