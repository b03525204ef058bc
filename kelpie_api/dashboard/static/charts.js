// Charts of progress and metrics in the place of the drawings that the page came with, of the numbers that it has beside these.
"use strict";
const HEIGHT = 150;
const charts = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const inUtc = (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC");
const DAY = uPlot.fmtDate("{MM}-{DD}");
const MINUTE = uPlot.fmtDate("{HH}:{mm}");
const SECOND = uPlot.fmtDate("{HH}:{mm}:{ss}");

function ticksOf(_, ticks, axis, space, step) {
  // As the rest of the page writes times; a midnight is its day.
  return ticks.map((at) => (at % 86400 === 0 ? DAY : step < 60 ? SECOND : MINUTE)(inUtc(at)));
}

function marksOf(begins) {
  // Where an attempt begins: a line from top to bottom, with its number.
  return (chart) => {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--warn");
    ctx.textAlign = "left";
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    for (const [at, attempt] of begins()) {
      const x = chart.valToPos(at, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.fillText(String(attempt), x + 3 * devicePixelRatio, bbox.top + 10 * devicePixelRatio);
    }
    ctx.restore();
  };
}

function chartOf(figure, place, data, begins) {
  const isShare = figure.dataset.share === "yes";
  const written = (value) =>
    value === null ? "–" : isShare ? `${(100 * value).toFixed(1)} %` : String(Number(value.toPrecision(4)));
  const axis = { stroke: () => colour("--quiet"), grid: { stroke: () => colour("--edge") }, ticks: { show: false } };
  return new uPlot(
    {
      width: place.clientWidth,
      height: HEIGHT,
      tzDate: inUtc,
      legend: { live: true, markers: { show: false } },
      cursor: { y: false, drag: { x: true, y: false } },
      axes: [{ ...axis, size: 30, values: ticksOf }, { ...axis, size: 56, values: (_, values) => values.map(written) }],
      series: [
        { label: "UTC", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" },
        {
          label: "value",
          value: (_, value) => written(value ?? null),
          stroke: () => colour("--kept-line"),
          width: 1.8,
          spanGaps: true,
          points: { show: false },
        },
      ],
      hooks: { draw: [marksOf(begins)] },
    },
    data,
    place,
  );
}

const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    if (contentRect.width > 0) charts.get(target)?.setSize({ width: Math.floor(contentRect.width), height: HEIGHT });
  }
});

function draw() {
  const all = document.querySelector(".sparks[data-at]");
  if (!all) return;
  const at = JSON.parse(all.dataset.at);
  for (const figure of all.querySelectorAll(".spark")) {
    const place = figure.querySelector(".chart");
    const data = [at, JSON.parse(figure.dataset.values)];
    if (charts.has(place)) {
      charts.get(place).setData(data);
    } else {
      charts.set(place, chartOf(figure, place, data, () => JSON.parse(all.dataset.begins)));
      sizes.observe(place);
    }
  }
}

draw();
document.addEventListener("htmx:after:swap", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts.values()) chart.redraw(false, true);
});
