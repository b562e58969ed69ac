"""Pictures. matplotlib is an extra: it is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["COLOURS", "Series", "accuracy_latency_picture", "new_figure"]

#: Okabe and Ito (2008): distinct for colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
_AREA_OF_LARGEST = 1400.0  # points^2
_AREA_OF_SMALLEST = 30.0  # so that a tiny file still shows
_ALPHA = 0.7


@dataclass(frozen=True)
class Series:
    """One model in the picture.

    Attributes:
        accuracy: 0..1, the mean; accuracy_sd: its standard deviation.
        latency_s: seconds a call for each case, by the name of its panel.
        file_bytes: drawn as the area.
    """

    name: str
    accuracy: float
    accuracy_sd: float
    latency_s: Mapping[str, float]
    file_bytes: int


def accuracy_latency_picture(
    series: Sequence[Series], path: str | Path, *, title: str, subtitle: str = ""
) -> Path:
    """Draw accuracy against latency, a panel for each case, the area of a disc being file size.

    Args:
        series: at least one; all have the same cases.
        path: a PNG, or another format by its suffix.

    Returns:
        The path of the picture.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no series, or series of different cases.

    >>> accuracy_latency_picture(series, "picture.png", title="digits")
    """
    if not series:
        raise ValueError("a picture needs at least one series, got none")
    cases = list(series[0].latency_s)
    if any(list(entry.latency_s) != cases for entry in series):
        raise ValueError("all series of a picture must have the same cases")
    legend_rows = (len(series) + 1) // 2
    height = 5.0 + 0.24 * legend_rows  # inches
    figure = new_figure((4.1 * len(cases) + 0.5, height))
    from matplotlib.lines import Line2D

    panels = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    for panel, case in zip(panels, cases, strict=True):
        _draw_panel(panel, series, case)
    panels[0].set_ylabel("accuracy on held-out images, %  (bar: \u00b1 1 sd)")
    figure.suptitle(title, x=0.01, y=1 - 0.12 / height, ha="left", va="top", fontweight="bold")
    figure.text(0.01, 1 - 0.46 / height, subtitle, ha="left", va="top", fontsize=9, color="0.35")
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=8, color=colour, alpha=_ALPHA)
        for colour in _colours(series)
    ]
    names = [f"{entry.name} ({_size(entry.file_bytes)})" for entry in series]
    figure.legend(handles, names, loc="lower left", ncols=2, frameon=False, fontsize=9)
    bottom = (0.75 + 0.24 * legend_rows) / height
    figure.subplots_adjust(left=0.07, right=0.985, top=1 - 1.0 / height, bottom=bottom, wspace=0.06)
    figure.savefig(path)
    return Path(path)


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure, of a size in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "matplotlib is not installed: pip install 'sparsekd[report]' draws the picture"
        ) from error
    return Figure(figsize=size, dpi=140)


def _draw_panel(panel: Any, series: Sequence[Series], case: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    largest = max(entry.file_bytes for entry in series)
    coloured = zip(series, _colours(series), strict=True)
    # The smallest last, so that none hides behind another.
    for entry, colour in sorted(coloured, key=lambda pair: -pair[0].file_bytes):
        at = (1e3 * entry.latency_s[case], 100 * entry.accuracy)
        area = max(_AREA_OF_SMALLEST, _AREA_OF_LARGEST * entry.file_bytes / largest)
        panel.errorbar(*at, yerr=100 * entry.accuracy_sd, color=colour, capsize=3, zorder=2)
        panel.scatter(
            *at, s=area, color=colour, alpha=_ALPHA, edgecolor="black", linewidth=0.6, zorder=3
        )
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter("{x:g}")
    panel.tick_params(axis="x", labelsize=8)
    panel.margins(x=0.22, y=0.2)
    panel.set_title(case, fontsize=10)
    panel.set_xlabel("latency, ms a batch (log scale)")
    panel.grid(color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)


def _colours(series: Sequence[Series]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(series))]


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
