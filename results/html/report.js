(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Plotly reads markup in its texts; a name is no markup.
  const plain = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);
  const shorten = (text) => (text.length > 48 ? text.slice(0, 47) + "…" : text);
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star"];

  // One filled shape for each run of points at which both ends of the interval are finite.
  function bands(line, ink) {
    const found = [];
    let run = [];
    const close = () => {
      if (run.length > 1) {
        const back = [...run].reverse();
        found.push({
          type: "scatter", mode: "lines", fill: "toself", fillcolor: ink, opacity: 0.16, line: { width: 0 },
          x: [...run, ...back].map((at) => line.x[at]),
          y: [...run.map((at) => line.high[at]), ...back.map((at) => line.low[at])],
          hoverinfo: "skip", showlegend: false,
        });
      }
      run = [];
    };
    line.low.forEach((low, at) => (low === null || line.high[at] === null ? close() : run.push(at)));
    close();
    return found;
  }

  // The reference lines that do not flatten the curves.
  const near = (chart) => {
    const top = Math.max(...chart.lines.flatMap((line) => [...line.y, ...line.high]));
    return chart.references.filter((reference) => reference.y <= 2.5 * top);
  };

  function traces(chart) {
    const ends = [0, Math.max(...chart.lines.flatMap((line) => line.x)) || 1];
    const lines = chart.lines.map((line, at) => ({
      type: "scatter", mode: "lines+markers", x: line.x, y: line.y, name: plain(shorten(line.name)),
      text: line.text.map(plain), hoverinfo: "text",
      line: {
        color: colour(`--line-${at % 6}`), width: 2.5, shape: chart.steps ? "hv" : "linear",
        dash: DASHES[(at + Math.floor(at / 6)) % 6],  // a look of its own for each of 36 lines
      },
      marker: {
        color: colour(`--line-${at % 6}`), symbol: SYMBOLS[at % 6], size: line.marked.map((marked) => (marked ? 9 : 0)),
        opacity: 1, line: { width: 0 },
      },
    }));
    const references = near(chart).map((reference) => ({
      type: "scatter", mode: "lines", x: ends, y: [reference.y, reference.y], name: plain(shorten(reference.name)),
      text: plain(`${reference.name}: ${reference.y.toPrecision(4)}`), hoverinfo: "text",
      line: { color: colour("--muted"), width: 1.5, dash: "dot" }, showlegend: false,
    }));
    const dots = chart.dots.length ? [{
      type: "scatter", mode: "markers", x: chart.dots.map((dot) => dot[0]), y: chart.dots.map((dot) => dot[1]),
      marker: { color: colour("--line-0"), size: 6, opacity: 0.35 }, hoverinfo: "skip", showlegend: false,
    }] : [];
    return [...dots, ...chart.lines.flatMap((line, at) => bands(line, colour(`--line-${at % 6}`))), ...references, ...lines];
  }

  function layout(chart) {
    const ink = colour("--ink");
    const axis = (title) => ({
      title: { text: title, standoff: 12, font: { size: 13 } }, rangemode: "tozero", fixedrange: true, automargin: true,
      gridcolor: colour("--grid"), zerolinecolor: colour("--rule"), linecolor: colour("--rule"), tickcolor: colour("--rule"),
    });
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink },
      margin: { l: 48, r: 12, t: 12, b: 44 }, dragmode: false, hovermode: "x unified",
      hoverdistance: chart.steps ? -1 : 20,  // between two steps the nearer one is shown
      hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--rule"), font: { color: ink }, align: "left" },
      xaxis: { ...axis(chart.x_title), unifiedhovertitle: { text: `${chart.x_name} %{x:${chart.x_format}}` } },
      yaxis: { ...axis(chart.y_title), tickformat: chart.y_format, ...(chart.y_range && { range: chart.y_range }) },
      shapes: chart.changes.slice(1).map((change) => ({
        type: "line", x0: change.x, x1: change.x, yref: "paper", y0: 0, y1: 1,
        line: { color: colour("--muted"), width: 1.5, dash: "dot" },
      })),
      annotations: [
        ...chart.changes.map((change) => ({
          text: plain(change.name), x: change.x, yref: "paper", y: 1, yanchor: "bottom", xanchor: "left",
        })),
        ...near(chart).map((reference) => ({
          text: plain(shorten(reference.name)), xref: "paper", x: 0, xanchor: "left", xshift: 3, y: reference.y, yanchor: "bottom",
        })),
      ].map((text) => ({ ...text, showarrow: false, font: { size: 12, color: colour("--muted") } })),
      showlegend: chart.lines.length > 1,
      legend: { orientation: "h", x: 0, y: chart.changes.length ? 1.09 : 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
    };
  }

  const shown = new Set();
  function draw(node) {
    const chart = charts[node.id];
    Plotly.react(node, traces(chart), layout(chart), { displayModeBar: false, responsive: true });
    shown.add(node);
  }
  const redraw = () => shown.forEach(draw);

  const drawInside = (details) => {
    if (details.open) details.querySelectorAll(".chart").forEach((node) => shown.has(node) || draw(node));
  };
  for (const node of document.querySelectorAll(".charts .chart")) draw(node);
  for (const details of document.querySelectorAll("details")) {
    details.addEventListener("toggle", () => drawInside(details));
    drawInside(details);  // it may have been opened while the page was still loading
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      document.documentElement.toggleAttribute("data-printing", printing);
      redraw();
    });
  }

  const openTarget = () => {
    const details = document.getElementById(location.hash.slice(1))?.querySelector("details");
    if (details) details.open = true;
  };
  addEventListener("hashchange", openTarget);
  openTarget();

  // What a term means: under the pointer and on focus; Escape takes it away.
  const tip = document.getElementById("tip");
  let explained = null;
  const explain = (node) => {
    explained = node;
    tip.textContent = document.getElementById(node.getAttribute("aria-describedby")).textContent;
    tip.hidden = false;
    const [at, size] = [node.getBoundingClientRect(), tip.getBoundingClientRect()];
    tip.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8))}px`;
    tip.style.top = `${at.top > size.height + 8 ? at.top - size.height - 6 : at.bottom + 6}px`;
  };
  const hide = () => { tip.hidden = true; };
  for (const node of document.querySelectorAll("[aria-describedby]")) {
    for (const event of ["pointerenter", "focus"]) node.addEventListener(event, () => explain(node));
    for (const event of ["pointerleave", "blur"]) node.addEventListener(event, hide);
  }
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
  addEventListener("scroll", () => tip.hidden || explain(explained), true);  // focus may scroll

  const wide = new ResizeObserver((entries) => entries.forEach(({ target: table }) => {
    table.parentElement.toggleAttribute("data-wide", table.parentElement.scrollWidth > table.parentElement.clientWidth + 1);
  }));
  document.querySelectorAll(".scroll > table").forEach((table) => wide.observe(table));

  const compare = (one, other) => {
    const [first, second] = [Number(one), Number(other)];
    if (Number.isNaN(first) || Number.isNaN(second)) return one.localeCompare(other, "en", { numeric: true });
    return first < second ? -1 : Number(first > second);
  };
  for (const head of document.querySelectorAll(".sortable thead th")) {
    head.querySelector("button").addEventListener("click", () => {
      const [table, column] = [head.closest("table"), head.cellIndex];
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => (ascending ? 1 : -1) * compare(value(one), value(other)));
      table.tBodies[0].append(...rows);
    });
  }
})();
