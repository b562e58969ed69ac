"""A picture of times: a panel for each case, a bar for each engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsekd.report.pictures import COLOURS, new_figure

__all__ = ["Bar", "BarPanel", "time_bars_picture"]

_COLUMNS = 2  # of panels
_BAR_INCHES = 0.2


@dataclass(frozen=True)
class Bar:
    """One engine.

    Attributes:
        group: bars of one group share a colour.
        seconds: the median; low, high: p10 and p90.
    """

    name: str
    group: str
    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class BarPanel:
    """One case; its bars are drawn from the fastest to the slowest."""

    title: str
    bars: Sequence[Bar]


def time_bars_picture(
    panels: Sequence[BarPanel], path: str | Path, *, title: str, subtitle: str = ""
) -> Path:
    """Draw times as bars with their spread, shorter being better.

    Args:
        panels: at least one, each with at least one bar.
        path: a PNG, or another format by its suffix.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing to draw.

    >>> time_bars_picture(panels, "model.png", title="whole models")
    """
    if not panels or not all(panel.bars for panel in panels):
        raise ValueError("a picture of times needs panels with at least one bar each")
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    most = max(len(panel.bars) for panel in panels)
    height = rows * (most * _BAR_INCHES + 0.75) + 1.0
    figure = new_figure((6.0 * columns, height))
    axes = figure.subplots(rows, columns, squeeze=False)
    groups = list(dict.fromkeys(bar.group for panel in panels for bar in panel.bars))
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, panel, groups)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title, x=0.01, y=1 - 0.1 / height, ha="left", va="top", fontweight="bold")
    figure.text(0.01, 1 - 0.4 / height, subtitle, ha="left", va="top", fontsize=8, color="0.35")
    from matplotlib.patches import Patch

    handles = [Patch(color=_colour(i), label=group) for i, group in enumerate(groups)]
    figure.legend(handles=handles, loc="lower left", ncols=4, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.3 / height, 1, 1 - 0.55 / height))
    figure.savefig(path)
    return Path(path)


def _draw_panel(axis: Any, panel: BarPanel, groups: Sequence[str]) -> None:
    ordered = sorted(panel.bars, key=lambda bar: bar.seconds)
    times = [1e3 * bar.seconds for bar in ordered]
    spread = [
        [1e3 * (bar.seconds - bar.low) for bar in ordered],
        [1e3 * (bar.high - bar.seconds) for bar in ordered],
    ]
    colours = [_colour(groups.index(bar.group)) for bar in ordered]
    places = range(len(ordered))
    axis.barh(places, times, xerr=spread, color=colours, ecolor="0.3", capsize=2, height=0.7)
    for place, time, bar in zip(places, times, ordered, strict=True):
        axis.annotate(
            f"{time:.3g}", (1e3 * bar.high, place), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=7, color="0.25",
        )  # fmt: skip
    axis.set_yticks(places, [bar.name for bar in ordered], fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.12, y=0.02)
    axis.set_xlim(left=0)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel("ms a call", fontsize=8)
    axis.set_title(panel.title, fontsize=9)
    axis.grid(axis="x", color="0.92", linewidth=0.6)
    axis.set_axisbelow(True)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
