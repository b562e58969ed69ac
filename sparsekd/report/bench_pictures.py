"""Pictures of measured layers: speedup against sparsity, and work against the machine's limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsekd.report.pictures import COLOURS, new_figure

__all__ = ["Panel", "RooflinePoint", "roofline_picture", "speedup_picture"]

_COLUMNS = 3  # of panels
_MARKERS = "osD^vP*Xh"
_LABEL_ROOM = 0.8  # a line is that far below another before it has a label of its own


@dataclass(frozen=True)
class Panel:
    """One panel of speedups.

    Attributes:
        lines: name of a line, such as "128 rows", to its points (sparsity 0..1, speedup).
        others: name of another engine to its own speedup; a horizontal line.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    others: Mapping[str, float]


@dataclass(frozen=True)
class RooflinePoint:
    """One engine on one problem.

    Attributes:
        group: points of one group share a colour; of one mark a marker.
        intensity: useful multiply-adds for each byte that has to move.
        rate: useful multiply-adds a second.
    """

    group: str
    mark: str
    intensity: float
    rate: float


def speedup_picture(
    panels: Sequence[Panel], path: str | Path, *, title: str, subtitle: str = ""
) -> Path:
    """Draw speedup against sparsity: a panel a layer, a line for each number of rows.

    Args:
        panels: at least one; sparsity 0 stands for dense weights.
        path: a PNG, or another format by its suffix.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing to draw.

    >>> speedup_picture(panels, "speedup.png", title="int8 Linear over the best dense int8")
    """
    if not panels or not any(panel.lines for panel in panels):
        raise ValueError("a picture of speedups needs at least one line, got none")
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    figure, axes = _figure(rows, columns, title, subtitle, legend=len(names))
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_speedups(axis, panel, names)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for index, axis in enumerate(axes.flat):
        if index % columns == 0:
            axis.set_ylabel("times as fast (log scale)")
        if index + columns >= len(panels):
            axis.set_xlabel("sparsity, %")
            axis.tick_params(labelbottom=True)
    _legend(figure, [(name, _style(i)) for i, name in enumerate(names)])
    figure.savefig(path)
    return Path(path)


def roofline_picture(
    points: Sequence[RooflinePoint],
    ceilings: Mapping[str, float],
    slopes: Mapping[str, float],
    path: str | Path,
    *,
    title: str,
    subtitle: str = "",
) -> Path:
    """Draw rates against intensity below the limits that were measured in the same run.

    Args:
        points: at least one.
        ceilings: name to multiply-adds a second; horizontal lines.
        slopes: name to bytes a second; each is a line of that rate for a byte of intensity 1.
        path: a PNG, or another format by its suffix.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing to draw, or no ceiling.
    """
    if not points or not ceilings:
        raise ValueError(
            f"a roofline needs points and ceilings, got {len(points)} and {len(ceilings)}"
        )
    groups = list(dict.fromkeys(point.group for point in points))
    marks = list(dict.fromkeys(point.mark for point in points))
    figure, axes = _figure(1, 1, title, subtitle, legend=len(groups) + len(marks), size=(8.6, 5.2))
    axis = axes.flat[0]
    for point in points:
        axis.loglog(
            point.intensity,
            point.rate / 1e9,
            linestyle="",
            marker=_marker(marks.index(point.mark)),
            color=_colour(groups.index(point.group)),
            markersize=6,
            markeredgecolor="black",
            markeredgewidth=0.4,
            alpha=0.8,
        )
    low = min(point.intensity for point in points) / 1.5
    high = max(point.intensity for point in points) * 1.5
    roof = max(ceilings.values())
    for name, rate in ceilings.items():
        axis.plot([low, high], [rate / 1e9] * 2, color="0.35", linewidth=1.0, zorder=1)
        axis.annotate(
            f"{name} {rate / 1e9:.0f} G/s", (high, rate / 1e9), xytext=(-2, 2),
            textcoords="offset points", ha="right", va="bottom", fontsize=7.5, color="0.25",
        )  # fmt: skip
    for bandwidth in slopes.values():
        end = min(high, roof / bandwidth)
        if end <= low:
            continue  # beyond the left edge: it bounds nothing here
        line = [bandwidth * low / 1e9, bandwidth * end / 1e9]
        axis.plot([low, end], line, color="0.6", linewidth=1.0, linestyle="--", zorder=1)
    axis.set_xlim(low, high)
    floor = min(point.rate for point in points) / 2e9
    axis.set_ylim(bottom=floor, top=roof * 1.6 / 1e9)
    for name, bandwidth in slopes.items():
        end = min(high, roof / bandwidth)
        if end > low:
            start = max(low, 1e9 * floor / bandwidth)
            _along(axis, f"{name} {bandwidth / 1e9:.0f} GB/s", bandwidth / 1e9, start, end)
    axis.set_xlabel("useful multiply-adds for each byte of weights, input and output")
    axis.set_ylabel("useful G multiply-adds/s")
    axis.grid(color="0.92", linewidth=0.6)
    entries = [(name, {"color": _colour(i), "marker": "o"}) for i, name in enumerate(groups)]
    entries += [(name, {"color": "0.5", "marker": _marker(i)}) for i, name in enumerate(marks)]
    _legend(figure, [(name, {**style, "linestyle": ""}) for name, style in entries])
    figure.savefig(path)
    return Path(path)


def _along(axis: Any, text: str, slope: float, start: float, end: float) -> None:
    """Write on the line y = slope x, between two x, turned as the line is drawn."""
    at = start ** (1 - _ALONG) * end**_ALONG
    (x0, y0), (x1, y1) = axis.transData.transform([(at, slope * at), (2 * at, 2 * slope * at)])
    axis.annotate(
        text, (at, slope * at), xytext=(0, 2), textcoords="offset points", fontsize=7.5,
        color="0.4", ha="center", rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
    )  # fmt: skip


def _draw_speedups(axis: Any, panel: Panel, names: Sequence[str]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullLocator

    for name, points in panel.lines.items():
        ordered = sorted(points)
        xs, ys = [_halvings(s) for s, _ in ordered], [ratio for _, ratio in ordered]
        axis.plot(xs, ys, markersize=4, linewidth=1.4, **_style(names.index(name)))
    for ratio in panel.others.values():
        axis.axhline(ratio, color="0.45", linewidth=0.9, linestyle="--", zorder=1)
    for name, ratio in _labels(panel.others):
        axis.annotate(
            name, (1.0, ratio), xycoords=("axes fraction", "data"), xytext=(-3, 1.5),
            textcoords="offset points", ha="right", va="bottom", fontsize=6.5, color="0.3",
        )  # fmt: skip
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}x")
    shares = sorted({s for points in panel.lines.values() for s, _ in points})
    axis.xaxis.set_major_locator(FixedLocator([_halvings(s) for s in shares]))
    axis.xaxis.set_major_formatter(FixedFormatter([f"{100 * s:.4g}" for s in shares]))
    axis.tick_params(labelsize=7)
    axis.set_title(panel.title, fontsize=9)
    axis.grid(color="0.92", linewidth=0.6)
    axis.set_axisbelow(True)


def _halvings(sparsity: float) -> float:
    """How often the weights were halved: where time follows the kept weights, lines are straight
    on this axis."""
    return -math.log2(1.0 - sparsity)


def _labels(others: Mapping[str, float]) -> list[tuple[str, float]]:
    """(names, height) of horizontal lines; lines that are close share one label."""
    labels: list[tuple[list[str], float]] = []
    for name, ratio in sorted(others.items(), key=lambda item: -item[1]):
        if labels and ratio > labels[-1][1] * _LABEL_ROOM:
            labels[-1][0].append(name)
        else:
            labels.append(([name], ratio))
    return [(", ".join(names), ratio) for names, ratio in labels]


def _figure(
    rows: int,
    columns: int,
    title: str,
    subtitle: str,
    *,
    legend: int,
    size: tuple[float, float] = (3.6, 2.6),
) -> tuple[Any, Any]:
    """A figure of panels with room for a title above and a legend below; sizes in inches."""
    lines = -(-legend // _LEGEND_COLUMNS)
    bottom = 0.55 + 0.22 * lines
    width, height = size[0] * columns + 0.4, size[1] * rows + 0.75 + bottom
    figure = new_figure((width, height))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(title, x=0.01, y=1 - 0.1 / height, ha="left", va="top", fontweight="bold")
    figure.text(0.01, 1 - 0.4 / height, subtitle, ha="left", va="top", fontsize=8, color="0.35")
    figure.subplots_adjust(
        left=0.65 / width, right=1 - 0.12 / width, top=1 - 0.85 / height, bottom=bottom / height,
        wspace=0.08, hspace=0.25,
    )  # fmt: skip
    return figure, axes


_LEGEND_COLUMNS = 7
_ALONG = 0.72  # of a line, where its name stands


def _legend(figure: Any, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], markersize=5, **style) for _, style in entries]
    names = [name for name, _ in entries]
    columns = -(-len(entries) // -(-len(entries) // _LEGEND_COLUMNS))
    figure.legend(handles, names, loc="lower left", ncols=columns, frameon=False, fontsize=8)


def _style(index: int) -> dict[str, Any]:
    return {"color": _colour(index), "marker": _marker(index)}


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]
