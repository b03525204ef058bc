"""Draws the points of bench.growth: `python plot.py POINTS PNG`. It needs matplotlib, and no other module here."""

import json
import sys
from pathlib import Path

import matplotlib  # type: ignore[import-not-found, unused-ignore]

matplotlib.use("Agg")
from matplotlib import pyplot

points = {int(jobs): times for jobs, times in json.loads(Path(sys.argv[1]).read_text()).items()}
figure, axes = pyplot.subplots(figsize=(7, 4), dpi=110, layout="constrained")
for kind in next(iter(points.values())):
    style = {"color": "grey", "linestyle": "dotted"} if kind == "no table" else {"marker": "o"}
    label = "a request that reads no table" if kind == "no table" else kind
    axes.plot(list(points), [times[kind] for times in points.values()], label=label, **style)
axes.set_xscale("log")
axes.set_ylim(bottom=0)
axes.set_xlabel("jobs in the database")
axes.set_ylabel("median over HTTP, ms")
axes.grid(alpha=0.3)
figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
figure.savefig(sys.argv[2])
