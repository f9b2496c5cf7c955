"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  // Plotly reads a little HTML, TeX and templates in labels; every text goes through here on its way there.
  const plain = (text) => text.replace(/[&<>$%]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const short = (text, length) => plain(text.length > length ? text.slice(0, length - 1) + "…" : text);
  const tone = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const COLOURS = 6;
  const SYMBOLS = ["circle", "diamond", "square", "cross", "x", "triangle-up", "star"];
  const TITLES = { pca: ["component 1", "component 2"], umap: ["UMAP 1", "UMAP 2"] };

  function layout(kind) {
    const axis = { gridcolor: tone("line"), zeroline: false, linecolor: tone("line"), automargin: true };
    const title = (index) => ({ title: { text: TITLES[kind][index] } });
    return {
      height: 520,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: tone("ink") },
      margin: { l: 8, r: 12, t: 12, b: 8 },
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      dragmode: window.matchMedia("(hover: hover)").matches ? "zoom" : false,
      hovermode: "closest",
      hoverlabel: { align: "left", bgcolor: tone("card"), bordercolor: tone("soft"), font: { color: tone("ink") } },
      xaxis: { ...axis, ...title(0) },
      yaxis: { ...axis, ...title(1) },
    };
  }

  const hover = (index) =>
    `<b>${plain(data.classes[data.labels[index]])}</b><br>${plain(data.names[index])}<br>` +
    `${plain(data.parts[index])}, cluster ${data.clusters[index]}`;

  function traces(kind, groups) {
    return [...new Set(groups)].sort((a, b) => a - b).map((group) => {
      const rows = groups.flatMap((one, index) => (one === group ? [index] : []));
      return {
        type: "scatter",
        mode: "markers",
        name: groups === data.labels ? short(data.classes[group], 28) : `cluster ${group}`,
        x: rows.map((index) => data[kind][index][0]),
        y: rows.map((index) => data[kind][index][1]),
        marker: {
          size: 6,
          opacity: 0.8,
          color: tone(`c${1 + (group % COLOURS)}`),
          symbol: SYMBOLS[Math.floor(group / COLOURS) % SYMBOLS.length],
        },
        hoverinfo: "text",
        hovertext: rows.map(hover),
      };
    });
  }

  function draw() {
    const groups = data[document.querySelector("input[name=colour]:checked").value];
    for (const kind of ["pca", "umap"]) {
      if (data[kind]) {
        Plotly.react(byId(`plot-${kind}`), traces(kind, groups), layout(kind), { displayModeBar: false, responsive: true });
      }
    }
  }

  for (const input of document.querySelectorAll("input[name=colour]")) input.addEventListener("change", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
