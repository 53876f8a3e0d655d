"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const several = data.runs.length > 1;
  document.documentElement.classList.add("js");

  const make = (parent, name, attributes = {}, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };

  // Four significant digits, without an exponent where that stays short.
  const number = (x) => {
    if (x === null || x === undefined) return "not finite";
    const size = Math.abs(x);
    if (x !== 0 && (size < 1e-3 || size >= 1e7)) return x.toExponential(2);
    return size >= 1000 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(4)));
  };

  // Round numbers that divide a range into about `n` parts.
  const ticks = (low, high, n) => {
    const raw = (high - low) / n || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-9; x += step) found.push(x);
    return found;
  };

  // Exponential moving average, unbiased at its beginning.
  const smoothed = (values, weight) => {
    let sum = 0, total = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = sum * weight + value * (1 - weight);
      total = total * weight + 1 - weight;
      return sum / total;
    });
  };

  const xOf = (run, kind, step) => {
    if (kind === "step") return step;
    const steps = run.steps.step;
    let low = 0, high = steps.length - 1;
    if (high < 0 || step <= 0) return 0;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1; else high = middle;
    }
    return run.steps[kind][low];
  };

  // What a chart shows: a list of { label, colour, x, y, raw, band, dots }.
  const linesOf = {
    loss: (run, i, options) => {
      const x = run.steps.step.map((s) => xOf(run, options.x, s));
      const at = run.evaluations.step.map((s) => xOf(run, options.x, s));
      const own = several ? `${run.name}, ` : "";
      return [
        { label: `${own}training`, colour: several ? i : 0, x, y: smoothed(run.steps.loss, options.smooth),
          raw: several ? null : run.steps.loss, thin: several,
          band: several || run.together === 1 ? null : [run.steps.lowest, run.steps.highest] },
        { label: `${own}held-out`, colour: several ? i : 1, x: at, y: run.evaluations.loss, dots: true, best: run.best },
      ];
    },
    perStep: (name) => (run, i, options) => [{
      label: several ? run.name : "", colour: several ? i : 0, y: run.steps[name],
      x: run.steps.step.map((s) => xOf(run, options.x, s)),
    }],
  };

  const charts = [];
  const options = { x: "step", smooth: 0.9 };

  const draw = (chart) => {
    const { svg, lines: make_lines, figure } = chart;
    const width = Math.max(240, svg.clientWidth), big = figure.classList.contains("wide");
    const height = Math.round(big ? Math.min(520, Math.max(260, width * 0.42)) : Math.min(300, Math.max(180, width * 0.45)));
    const text = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
    const left = 56 * text, right = 14, top = 10, bottom = 26 * text;
    svg.setAttribute("height", height);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const lines = data.runs.flatMap((run, i) => make_lines(run, i, options)).filter((l) => l.x.length);
    chart.drawn = lines;
    const xs = lines.flatMap((l) => l.x), ys = lines.flatMap((l) => l.y).filter((y) => y !== null);
    if (!xs.length || !ys.length) { make(svg, "text", { x: 10, y: 30 }, "nothing was recorded yet"); return; }
    const x0 = Math.min(...xs, 0), x1 = Math.max(...xs, x0 + 1);
    let y0 = Math.min(...ys), y1 = Math.max(...ys);
    if (chart.fromZero) y0 = Math.min(0, y0);
    if (y0 === y1) { y0 -= Math.abs(y0) * 0.1 || 0.5; y1 += Math.abs(y1) * 0.1 || 0.5; }
    const room = (y1 - y0) * 0.05;
    y1 += room; if (!chart.fromZero) y0 -= room;
    const px = (x) => left + (x - x0) / (x1 - x0) * (width - left - right);
    const py = (y) => height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom);
    for (const y of ticks(y0, y1, Math.max(2, height / 60))) {
      make(svg, "line", { class: "grid", x1: left, x2: width - right, y1: py(y), y2: py(y) });
      make(svg, "text", { x: left - 8, y: py(y) + 4 * text, "text-anchor": "end" }, number(y));
    }
    for (const x of ticks(x0, x1, Math.max(2, width / 130))) {
      make(svg, "text", { x: px(x), y: height - 6, "text-anchor": px(x) > width - 30 ? "end" : "middle" }, number(x));
    }
    make(svg, "line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom });
    const run = data.runs[0];
    if (chart.name === "loss" && !several && run.overfits) {
      const from = px(xOf(run, options.x, run.evaluations.step[run.best]));
      make(svg, "rect", { class: "shade", x: from, y: top, width: width - right - from, height: height - top - bottom });
      const room_for_text = width - right - from > 150;
      make(svg, "text", { x: room_for_text ? from + 8 : from - 8, y: top + 16 * text, "text-anchor": room_for_text ? "start" : "end" }, "overfitting");
    }
    const clipped = (y) => Math.min(height - bottom, Math.max(top, py(y)));
    const path = (x, y) => {
      let d = "", pen = false;
      y.forEach((value, i) => {
        if (value === null) { pen = false; return; }
        d += `${pen ? "L" : "M"}${px(x[i]).toFixed(1)} ${clipped(value).toFixed(1)}`;
        pen = true;
      });
      return d;
    };
    for (const line of lines) {
      const c = `c${line.colour % 6}`;
      if (line.band) {
        const [low, high] = line.band, ok = line.x.map((_, i) => i).filter((i) => low[i] !== null);
        const edge = (values, order) => order.map((i) => `${px(line.x[i]).toFixed(1)} ${clipped(values[i]).toFixed(1)}`).join("L");
        if (ok.length) make(svg, "path", { class: `band ${c}`, d: `M${edge(high, ok)}L${edge(low, [...ok].reverse())}Z` });
      }
      if (line.raw) make(svg, "path", { class: `raw ${c}`, d: path(line.x, line.raw) });
      make(svg, "path", { class: line.thin ? `thin ${c}` : c, d: path(line.x, line.y) });
      if (line.dots) line.y.forEach((y, i) => {
        if (y === null || (line.y.length > 60 && i !== line.best)) return;
        make(svg, "circle", { class: i === line.best ? `${c} best` : c, cx: px(line.x[i]), cy: clipped(y), r: 3.5 });
      });
    }
    if (chart.name === "grad_norm") for (const each of data.runs) for (const step of each.skipped.slice(0, 500)) {
      make(svg, "text", { x: px(xOf(each, options.x, step)), y: height - bottom - 3, "text-anchor": "middle" }, "×");
    }
    chart.cross = make(svg, "line", { class: "cross", x1: -9, x2: -9, y1: top, y2: height - bottom });
    chart.scale = { px, x0, x1, left, right, width };
    if (chart.at !== undefined) read(chart, chart.at);
  };

  const units = { step: "step", tokens: "tokens", seconds: "seconds" };

  // Show the values nearest to x.
  const read = (chart, x) => {
    const all = [...new Set(chart.drawn.flatMap((l) => l.x))].sort((a, b) => a - b);
    if (!all.length) return;
    const near = all.reduce((best, each) => Math.abs(each - x) < Math.abs(best - x) ? each : best);
    chart.at = near;
    chart.all = all;
    chart.cross.setAttribute("x1", chart.scale.px(near));
    chart.cross.setAttribute("x2", chart.scale.px(near));
    const values = chart.drawn.map((line) => {
      let i = -1;
      line.x.forEach((each, k) => { if (each <= near) i = k; });
      if (i < 0) return "";
      const at = line.dots && line.x[i] !== near ? ` (at ${number(line.x[i])})` : "";
      const raw = line.raw && line.raw[i] !== null ? `, this step ${number(line.raw[i])}` : "";
      return `${line.label ? `${line.label} ` : ""}${number(line.y[i])}${raw}${at}`;
    });
    chart.readout.textContent = `${units[options.x]} ${number(near)}: ${values.filter(Boolean).join("; ")}`;
  };

  for (const figure of document.querySelectorAll("[data-chart]")) {
    const name = figure.dataset.chart;
    const chart = {
      name, figure, svg: figure.querySelector("svg"), readout: figure.querySelector(".readout"),
      fromZero: name !== "loss", lines: name === "loss" ? linesOf.loss : linesOf.perStep(name),
    };
    charts.push(chart);
    const toX = (event) => {
      const { left, right, width, x0, x1 } = chart.scale;
      const box = chart.svg.getBoundingClientRect();
      const at = (event.clientX - box.left) * width / box.width;
      return x0 + (at - left) / (width - left - right) * (x1 - x0);
    };
    for (const kind of ["pointermove", "pointerdown"]) chart.svg.addEventListener(kind, (e) => chart.scale && read(chart, toX(e)));
    chart.svg.addEventListener("keydown", (event) => {
      if (!chart.scale) return;
      if (chart.at === undefined) read(chart, chart.scale.x1);
      const jump = event.shiftKey ? Math.ceil(chart.all.length / 20) : 1;
      const i = chart.all.indexOf(chart.at);
      const to = { ArrowLeft: i - jump, ArrowRight: i + jump, Home: 0, End: chart.all.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      read(chart, chart.all[Math.max(0, Math.min(chart.all.length - 1, to))]);
    });
    new ResizeObserver(() => draw(chart)).observe(chart.svg);
  }
  const again = () => charts.forEach((chart) => { chart.at = undefined; chart.readout.textContent = ""; draw(chart); });
  const smooth = document.getElementById("smooth"), axis = document.getElementById("axis");
  smooth?.addEventListener("input", () => { options.smooth = Math.min(0.995, smooth.value / 100); again(); });
  axis?.addEventListener("change", () => { options.x = axis.value; again(); });
  addEventListener("beforeprint", () => charts.forEach(draw));
})();
