"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  // Plotly reads a little HTML, TeX and templates in labels; every text of the run goes through here on its way there.
  const plain = (text) => text.replace(/[&<>$%]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const short = (text, length) => plain(text.length > length ? text.slice(0, length - 1) + "…" : text);
  const tone = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const colour = (family) => tone(`c${family === 0 ? 0 : 1 + ((family - 1) % 6)}`);
  const percent = (share) => (100 * share).toFixed(1);

  const SHAPES = { fp32: "circle", fp16: "square", int8: "diamond" };
  const shape = (precision) => SHAPES[precision] || "cross";
  const COSTS = {
    latency_ratio: { title: "model latency, × base (paired, interleaved)", unit: "" },
    file_bytes: { title: "file size", unit: "B" },
    macs: { title: "MACs", unit: "" },
  };
  const CONFIG = { displayModeBar: false, responsive: true };
  // A finger that drags over a plot scrolls the page; a mouse zooms.
  const DRAG = window.matchMedia("(hover: hover)").matches ? "zoom" : false;

  function layout(more) {
    const axis = { gridcolor: tone("line"), zeroline: false, linecolor: tone("line"), automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: tone("ink") },
      margin: { l: 8, r: 12, t: 12, b: 8 },
      showlegend: false,
      dragmode: DRAG,
      hovermode: "closest",
      hoverlabel: { align: "left", bgcolor: tone("card"), bordercolor: tone("soft"), font: { color: tone("ink") } },
      ...more,
      xaxis: { ...axis, ...more.xaxis },
      yaxis: { ...axis, ...more.yaxis },
    };
  }

  // ---- The table ---------------------------------------------------------------------------------------------

  function sortTable(button) {
    const head = button.closest("th");
    const table = head.closest("table");
    const opposite = { ascending: "descending", descending: "ascending" };
    const direction = opposite[head.getAttribute("aria-sort")] || button.dataset.first;
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const column = Number(button.dataset.column);
    const key = (body) => body.rows[0].cells[column].dataset.sort;
    const compare = (a, b) => {
      const [one, other] = [key(a), key(b)];
      if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
      return sign * (column === 0 ? one.localeCompare(other, undefined, { numeric: true }) : one - other);
    };
    const bodies = [...table.tBodies].sort((a, b) => compare(a, b) || a.dataset.order - b.dataset.order);
    table.append(...bodies);
    byId("sorted").textContent = `Sorted by ${button.textContent}, ${direction}.`;
  }

  // ---- Quality against cost ----------------------------------------------------------------------------------

  function bars(points, key) {
    return {
      type: "data",
      symmetric: false,
      array: points.map((point) => point.values[key].high - point.values[key].value),
      arrayminus: points.map((point) => point.values[key].value - point.values[key].low),
      thickness: 1,
      width: 2,
    };
  }

  function marks(metric, cost) {
    const share = (value) => 100 * value;
    return data.points
      .filter((point) => point.values[cost])
      .map((point) => {
        const quality = bars([point], metric);
        quality.array = quality.array.map(share);
        quality.arrayminus = quality.arrayminus.map(share);
        const faded = point.role === "control";
        const emphasis = point.chosen || point.is_base;
        return {
          type: "scatter",
          mode: "markers",
          x: [point.values[cost].value],
          y: [share(point.values[metric].value)],
          error_y: { ...quality, color: colour(point.family) },
          error_x: cost === "latency_ratio" ? { ...bars([point], cost), color: colour(point.family) } : undefined,
          marker: {
            symbol: shape(point.precision) + (faded ? "-open" : ""),
            size: point.chosen ? 15 : emphasis ? 13 : 10,
            color: colour(point.family),
            line: { width: point.chosen ? 3 : faded ? 1.5 : 1, color: point.chosen ? tone("ink") : faded ? colour(point.family) : tone("card") },
          },
          hoverinfo: "text",
          hovertext: [`<b>${plain(point.name)}</b><br>` + point.hover.map(plain).join("<br>")],
        };
      });
  }

  function front(metric, cost) {
    const points = data.fronts[metric][cost].map((index) => data.points[index].values);
    return {
      type: "scatter",
      mode: "lines",
      x: points.map((values) => values[cost].value),
      y: points.map((values) => 100 * values[metric].value),
      line: { shape: "hv", width: 1.5, color: tone("soft") },
      hoverinfo: "skip",
    };
  }

  // Base and chosen are named above the plot, each over a line that leads down to its mark.
  function signposts(cost) {
    const drawn = data.points.filter((point) => point.values[cost]);
    const middle = logMiddle(drawn.map((point) => point.values[cost].value));
    const named = drawn.filter((point) => point.chosen || point.is_base);
    return {
      annotations: named.map((point) => ({
        x: Math.log10(point.values[cost].value),
        y: 1,
        yref: "paper",
        yanchor: "bottom",
        yshift: point.chosen ? 16 : 0,
        xanchor: point.values[cost].value > middle ? "right" : "left",
        text: `<b>${short(point.name, 28)}</b>`,
        font: { color: point.chosen ? tone("ink") : tone("soft") },
        showarrow: false,
      })),
      shapes: named.map((point) => ({
        type: "line",
        x0: point.values[cost].value,
        x1: point.values[cost].value,
        y0: 0,
        y1: 1,
        yref: "paper",
        layer: "below",
        line: { width: 1, color: tone("soft"), dash: "dot" },
      })),
    };
  }

  const NOTHING = { text: "no figures that compare", x: 0.5, y: 0.5, xref: "paper", yref: "paper", showarrow: false };

  const logMiddle = (values) => Math.sqrt(Math.min(...values) * Math.max(...values));

  // Ticks of a logarithmic axis at 1, 2, 5 times powers of ten, each within the figures or just outside them.
  function logTicks(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      ticks.push(...[1, 2, 5].map((factor) => factor * 10 ** power));
    }
    const near = ticks.filter((tick) => tick >= low / 2.5 && tick <= high * 2.5);
    return near.length > 7 ? near.filter((tick) => Number.isInteger(Math.round(1e6 * Math.log10(tick)) / 1e6)) : near;
  }

  // A round figure with a decimal prefix: 20 kB, 0.5.
  function scaled(value, unit) {
    const [factor, prefix] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([step]) => value >= step) || [1, ""];
    return `${Number((value / factor).toPrecision(3))} ${prefix}${unit}`.trim();
  }

  function drawTradeoffs(metric) {
    for (const [cost, axis] of Object.entries(COSTS)) {
      const traces = [front(metric, cost), ...marks(metric, cost)];
      const values = data.points.filter((point) => point.values[cost]).map((point) => point.values[cost].value);
      const ticks = logTicks(values);
      const marked = values.length ? signposts(cost) : { annotations: [NOTHING] };
      Plotly.react(
        byId(`plot-${cost}`),
        traces,
        layout({
          height: 340,
          ...marked,
          margin: { l: 8, r: 12, t: 44, b: 8 },
          xaxis: { type: "log", title: { text: axis.title }, tickvals: ticks, ticktext: ticks.map((tick) => scaled(tick, axis.unit)) },
          yaxis: { title: { text: `${data.metrics[metric]}, %` } },
        }),
        CONFIG,
      );
    }
  }

  function legendItem(text, draw) {
    const item = document.createElement("li");
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("viewBox", "0 0 10 10");
    picture.setAttribute("aria-hidden", "true");
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "path");
    mark.setAttribute("d", draw.path);
    mark.setAttribute("fill", draw.fill || "none");
    mark.setAttribute("stroke", draw.stroke || "none");
    mark.setAttribute("stroke-width", "1.6");
    picture.append(mark);
    const label = document.createElement("bdi");
    label.textContent = text;
    item.append(picture, label);
    return item;
  }

  const PATHS = {
    circle: "M5 1a4 4 0 1 1 0 8a4 4 0 1 1 0-8z",
    square: "M1.5 1.5h7v7h-7z",
    diamond: "M5 0L10 5L5 10L0 5z",
    cross: "M3.5 1h3v2.500h2.500v3h-2.500v2.500h-3v-2.500h-2.500v-3h2.500z",
  };

  function drawLegend() {
    const items = data.families.map((name, family) => legendItem(name, { path: "M0 2h10v6H0z", fill: colour(family) }));
    for (const precision of new Set(data.points.map((point) => point.precision))) {
      items.push(legendItem(precision, { path: PATHS[shape(precision)], fill: tone("soft") }));
    }
    if (data.points.some((point) => point.role === "control")) {
      items.push(legendItem("control", { path: PATHS.circle, stroke: tone("soft") }));
    }
    if (data.points.some((point) => point.chosen)) {
      items.push(legendItem("chosen", { path: PATHS.circle, fill: tone("line"), stroke: tone("ink") }));
    }
    byId("legend").replaceChildren(...items);
  }

  // ---- Classes -----------------------------------------------------------------------------------------------

  function recallTrace(point, order, shift, paint = colour(point.family)) {
    const kept = order.map((index, place) => [place, point.recall[index]]).filter(([, recall]) => recall);
    return {
      type: "scatter",
      mode: "markers",
      name: short(point.name, 40),
      x: kept.map(([, recall]) => 100 * recall.value),
      y: kept.map(([place]) => place + shift),
      error_x: {
        type: "data",
        symmetric: false,
        array: kept.map(([, recall]) => 100 * (recall.high - recall.value)),
        arrayminus: kept.map(([, recall]) => 100 * (recall.value - recall.low)),
        thickness: 2,
        width: 0,
        color: paint,
      },
      marker: { symbol: shape(point.precision), size: 10, color: paint },
      hoverinfo: "text",
      hovertext: kept.map(([place, recall]) =>
        `<b>${plain(data.classes[order[place]])}</b><br>${plain(point.name)}<br>recall ${percent(recall.value)} % ` +
        `[${percent(recall.low)}, ${percent(recall.high)}], ${recall.n} images`),
    };
  }

  function drawRecall() {
    const shown = data.points[byId("recall-model").value];
    const base = data.points.find((point) => point.is_base);
    const rank = (index) => (shown.recall[index] ? shown.recall[index].value : 2);
    const order = data.classes.map((_, index) => index).sort((a, b) => rank(a) - rank(b) || a - b);
    const paint = base && base.family === shown.family ? tone("accent") : undefined;
    const traces = base && base !== shown
      ? [recallTrace(base, order, -0.14), recallTrace(shown, order, 0.14, paint)]
      : [recallTrace(shown, order, 0)];
    Plotly.react(
      byId("plot-recall"),
      traces,
      layout({
        height: 110 + 44 * order.length,
        showlegend: true,
        legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
        xaxis: { title: { text: "recall, %" } },
        yaxis: {
          range: [order.length - 0.5, -0.5],
          tickvals: order.map((_, place) => place),
          ticktext: order.map((index) => short(data.classes[index], window.innerWidth < 640 ? 14 : 32)),
          showgrid: false,
        },
      }),
      CONFIG,
    );
  }

  function drawConfusion(side) {
    const point = data.points[byId(`confusion-${side}`).value];
    const places = data.classes.map((_, index) => index);
    const sums = point.confusion.map((row) => row.reduce((sum, count) => sum + count, 0));
    const shares = point.confusion.map((row, index) => row.map((count) => (sums[index] ? count / sums[index] : null)));
    const names = data.classes.map((name) => short(name, places.length > 12 || window.innerWidth < 640 ? 10 : 16));
    const axis = { tickvals: places, ticktext: names, showgrid: false, ticks: "", constrain: "domain" };
    const box = byId(`plot-confusion-${side}`);
    Plotly.react(
      box,
      [{
        type: "heatmap",
        x: places,
        y: places,
        z: shares,
        zmin: 0,
        zmax: 1,
        xgap: 1,
        ygap: 1,
        colorscale: [[0, tone("faint")], [1, tone("heat")]],
        showscale: false,
        text: point.confusion,
        texttemplate: places.length <= 20 ? "%{text}" : "",
        hoverinfo: "text",
        hovertext: point.confusion.map((row, truth) => row.map((count, called) =>
          `${plain(data.classes[truth])} called ${plain(data.classes[called])}<br>${count} of ${sums[truth]} images` +
          (sums[truth] ? `, ${percent(count / sums[truth])} %` : ""))),
      }],
      layout({
        height: Math.min(760, 130 + 56 * places.length, Math.max(320, box.clientWidth + 10)),
        xaxis: { ...axis, title: { text: "called" }, tickangle: places.length > 4 ? -45 : 0 },
        yaxis: { ...axis, range: [places.length - 0.5, -0.5], scaleanchor: "x", constraintoward: "top" },
      }),
      CONFIG,
    );
  }

  // ---- Training ----------------------------------------------------------------------------------------------

  function curve(one, key, scale, dash, label) {
    return {
      legendgroup: one.name,
      showlegend: !label,
      type: "scatter",
      mode: one.epoch.length > 1 ? "lines" : "markers",
      name: short(one.name, 30),
      x: one.epoch,
      y: one[key].map((value) => (value === null ? null : scale * value)),
      line: { color: colour(one.family), width: one.control ? 1.2 : 2, dash },
      marker: { color: colour(one.family) },
      hovertemplate: `%{y:.4~g}<extra>${short(one.name, 30)}${label}</extra>`,
    };
  }

  function drawCurves() {
    byId("no-curves").hidden = data.curves.length > 0;
    byId("curves").hidden = data.curves.length === 0;
    if (!data.curves.length) return;
    const known = (one, key) => one[key].some((value) => value !== null);
    const traces = (key, scale, dash, label) => data.curves
      .filter((one) => known(one, key))
      .map((one) => curve(one, key, scale, dash(one), label));
    const style = (title) => layout({
      height: 380,
      hovermode: "x unified",
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { title: { text: "epoch" } },
      yaxis: { title: { text: title } },
    });
    const byRole = (one) => (one.control ? "dash" : "solid");
    const losses = [...traces("train_loss", 1, byRole, ""), ...traces("val_loss", 1, () => "dot", " validation")];
    Plotly.react(byId("plot-loss"), losses, style("loss"), CONFIG);
    Plotly.react(byId("plot-score"), traces("val_macro_f1", 100, byRole, ""), style("validation macro F1, %"), CONFIG);
  }

  // ---- All of it ---------------------------------------------------------------------------------------------

  function fill(select, first) {
    data.points.forEach((point, index) => select.add(new Option(point.name, index, false, index === first)));
  }

  function draw() {
    drawCurves();
    if (!data.points.length) return;
    drawLegend();
    drawTradeoffs(document.querySelector("input[name=metric]:checked").value);
    drawRecall();
    drawConfusion("left");
    drawConfusion("right");
  }

  for (const button of document.querySelectorAll(".sortable thead button")) {
    button.addEventListener("click", () => sortTable(button));
  }
  if (data.points.length) {
    const base = Math.max(0, data.points.findIndex((point) => point.is_base));
    const chosen = data.points.findIndex((point) => point.chosen);
    const other = data.points.findIndex((point, index) => index !== base && point.role !== "control" && point.family > 0);
    const shown = chosen >= 0 ? chosen : other >= 0 ? other : base;
    fill(byId("recall-model"), shown);
    fill(byId("confusion-left"), base);
    fill(byId("confusion-right"), shown);
    byId("recall-model").addEventListener("change", drawRecall);
    for (const side of ["left", "right"]) byId(`confusion-${side}`).addEventListener("change", () => drawConfusion(side));
    for (const input of document.querySelectorAll("input[name=metric]")) {
      input.checked = input.value === data.metric;
      input.addEventListener("change", () => drawTradeoffs(input.value));
    }
  }
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
