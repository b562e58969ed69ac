"""What ``sparsekd bench linear`` found, and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsekd.bench.record import BenchResult, Point
from sparsekd.bench.studies import Fit, Group, Study, Summary, fit, geometric_mean
from sparsekd.bench.tables import (
    absent_lines,
    fit_table,
    rate_lines,
    share_table,
    study_table,
)
from sparsekd.benchmark import MARK, format_ratio, format_times
from sparsekd.environment import busy_note, where_text

if TYPE_CHECKING:
    from rich.console import Group as Rendered
    from rich.console import RenderableType

__all__ = ["GROUPS", "STUDIES", "LinearBenchResult"]

_INT8, _FP32 = "against the best dense int8 of the others", "against the best dense fp32"

#: Every comparison that the formats allow; those without points are left out.
STUDIES = (
    Study(f"int8 {_INT8}", ("dense int8", "int8 n:32"), kind="dense int8", rate="vpdpbusd"),
    Study(f"int8, any mask, {_INT8}", ("int8 any mask",), kind="dense int8", rate="vpdpbusd"),
    Study(f"fp32 n:16 {_FP32} of the others", ("fp32 n:16",), kind="dense fp32", rate="fma"),
    Study(f"fp32 n:32 {_FP32} of the others", ("fp32 n:32",), kind="dense fp32", rate="fma"),
    Study(f"bf16 {_FP32} of the others", ("bf16 n:32",), kind="dense fp32"),
    Study("bf16 against our fp32 n:32", ("bf16 n:32",), own="fp32 n:32"),
    Study(
        f"fp32, any mask, {_FP32} of the others",
        ("fp32 any mask", "csr fp32"),
        kind="dense fp32",
        rate="fma",
    ),
)


def _rows(least: int, most: int = 1 << 62) -> Callable[[Point], bool]:
    return lambda point: least <= point.case["rows"] <= most


#: Rows over which means are taken.
GROUPS: tuple[Group, ...] = (
    ("all", _rows(1)),
    ("rows 1 to 8", _rows(1, 8)),
    ("rows >= 8", _rows(8)),
    ("rows >= 16", _rows(16)),
    ("rows >= 64", _rows(64)),
)

_FITTED = ("int8 n:32", "fp32 n:16", "fp32 n:32")
_SCALES_FROM_S = 300e-6  # of one thread: shorter calls are not worth a second one


@dataclass(frozen=True)
class LinearBenchResult(BenchResult):
    """Every layer of a comparison."""

    what = "linear"

    def slices(self) -> Iterator[tuple[str, list[Point]]]:
        """(name, points) for each number of threads and each origin of weights."""
        layers = [point for point in self.points if _is_layer(point)]
        for threads in dict.fromkeys(point.case["threads"] for point in layers):
            for trained in (False, True):
                chosen = [
                    point
                    for point in layers
                    if point.case["threads"] == threads
                    and (point.case["weights"] != "random") == trained
                ]
                if chosen:
                    origin = ", trained weights" if trained else ""
                    yield f"{threads} thread{'s' * (threads != 1)}{origin}", chosen

    def summaries(self) -> list[tuple[str, Summary]]:
        """(slice, summary) of every study, column and group of rows."""
        return [
            (name, summary)
            for name, points in self.slices()
            for study in STUDIES
            for column in study.columns(points)
            for group in GROUPS
            if (summary := study.summary(points, column, group)) is not None
        ]

    def fits(self) -> list[tuple[str, Fit]]:
        """(slice, line) of every point and family with enough sparsities."""
        return [
            (name, line)
            for name, points in self.slices()
            for point in points
            for family in _FITTED
            if (line := fit(point, family)) is not None
        ]

    def scaling(self) -> list[tuple[str, int, float, float]]:
        """(family and sparsity, points, mean, smallest) of the gain from one to two threads."""
        by_case: dict[tuple[object, ...], dict[int, Point]] = {}
        for point in filter(_is_layer, self.points):
            case = point.case
            key = (case["rows"], case["in"], case["out"], case["weights"])
            by_case.setdefault(key, {})[case["threads"]] = point
        gains: dict[str, list[float]] = {}
        for points in by_case.values():
            if not {1, 2} <= points.keys():
                continue
            for one in points[1].entries:
                two = points[2].find(one.family, one.sparsity)
                if one.ours and two is not None and one.seconds >= _SCALES_FROM_S:
                    gains.setdefault(one.name, []).append(one.seconds / two.seconds)
        return [(name, len(g), geometric_mean(g), min(g)) for name, g in gains.items()]

    def extra(self) -> dict[str, Any]:
        return {
            "summaries": [{"slice": name, **s.to_dict()} for name, s in self.summaries()],
            "fits": [{"slice": name, **line.to_dict()} for name, line in self.fits()],
            "scaling": [
                {"engine": name, "points": count, "geometric_mean": mean, "smallest": least}
                for name, count, mean, least in self.scaling()
            ],
        }

    def write_all(self, folder: Path) -> tuple[Path, ...]:
        """Write the figures, as JSON and as the tables that the terminal shows."""
        from sparsekd.report import show

        target = Path(folder, "linear.txt")
        with target.open("w", encoding="utf-8") as file:
            show(self, file)
        return (self.write(folder), target)

    def __rich__(self) -> Rendered:
        from rich.console import Group as Rendered

        return Rendered(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        from rich.text import Text

        for name, points in self.slices():
            for study in STUDIES:
                if not study.rows(points):
                    continue
                yield Text(f"\n{name}", style="bold")
                yield study_table(study, points, GROUPS)
                if study.rate and any(point.rate(study.rate) for point in points):
                    yield share_table(study, points)
        if lines := [line for _, line in self.fits()]:
            yield fit_table(lines)
        for text in self._notes():
            yield Text(text)  # Text: "[bench]" is no colour

    def _notes(self) -> Iterator[str]:
        for point in self.points:
            if "machine" in point.case:
                yield f"{point.title}: " + "; ".join(rate_lines(point))
        for point in filter(_is_smallest, self.points):
            costs = [
                f"{entry.name} {1e3 * float(format_times(entry.samples)[0]):.1f}"
                for entry in point.entries
                if entry.kind != "rate"
            ]
            yield f"fixed cost of a call ({point.title}), µs: " + ", ".join(costs)
        for name, count, mean, least in self.scaling():
            gain = f"{format_ratio(mean)}, smallest {format_ratio(least)}"
            yield f"two threads over one, {name}, {count} points of at least 300 µs: {gain}"
        yield from absent_lines(self.points)
        yield where_text(self.environment)
        yield (
            f"cells: median ms and time of the yardstick over ours; {MARK} we are slower; ±%: half "
            "of p10 to p90, the widest of the line; means: where the yardstick needs 50 µs"
        )
        if note := busy_note(self.environment):
            yield note


def _is_smallest(point: Point) -> bool:
    return point.case.get("in") == point.case.get("out") == 16


def _is_layer(point: Point) -> bool:
    return "machine" not in point.case and not _is_smallest(point)
