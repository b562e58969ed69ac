"""What ``sparsekd bench linear`` found, and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsekd.bench.bound import Bounds, bound_table
from sparsekd.bench.record import Point
from sparsekd.bench.studies import Fit, Group, Study, fit, geometric_mean
from sparsekd.bench.study_result import StudyResult, is_limits, threads_text
from sparsekd.bench.tables import fit_table
from sparsekd.benchmark import format_ratio, format_times

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["LinearBenchResult"]

_INT8, _FP32 = "against the best dense int8 of the others", "against the best dense fp32"

# Every comparison that the formats allow; those without points are left out.
_STUDIES = (
    Study("int8", f"int8 {_INT8}", ("dense int8", "int8 n:32"), kind="dense int8", rate="vpdpbusd"),
    Study("int8-dense", "int8 against our dense int8", ("int8 n:32",), own="dense int8"),
    Study(
        "int8-any",
        f"int8, any mask, {_INT8}",
        ("int8 any mask", "int8 any mask, snapped"),
        kind="dense int8",
        rate="vpdpbusd",
    ),
    Study(
        "fp32-n16",
        f"fp32 n:16 {_FP32} of the others",
        ("fp32 n:16",),
        kind="dense fp32",
        rate="fma",
    ),
    Study(
        "fp32-n32",
        f"fp32 n:32 {_FP32} of the others",
        ("fp32 n:32",),
        kind="dense fp32",
        rate="fma",
    ),
    Study("bf16", f"bf16 {_FP32} of the others", ("bf16 n:32",), kind="dense fp32"),
    Study("bf16-fp32", "bf16 against our fp32 n:32", ("bf16 n:32",), own="fp32 n:32"),
    Study(
        "fp32-any",
        f"fp32, any mask, {_FP32} of the others",
        ("fp32 any mask", "csr fp32"),
        kind="dense fp32",
        rate="fma",
    ),
)


def _rows(least: int, most: int = 1 << 62) -> Callable[[Point], bool]:
    return lambda point: least <= point.case["rows"] <= most


# Rows over which means are taken.
_GROUPS: tuple[Group, ...] = (
    ("all", _rows(1)),
    ("rows 1 to 8", _rows(1, 8)),
    ("rows >= 8", _rows(8)),
    ("rows >= 16", _rows(16)),
    ("rows >= 64", _rows(64)),
)

_FITTED = ("int8 n:32", "fp32 n:16", "fp32 n:32")
_SCALES_FROM_S = 300e-6  # of one thread: shorter calls are not worth a second one


@dataclass(frozen=True)
class LinearBenchResult(StudyResult):
    """Every layer of a comparison."""

    studies: tuple[Study, ...] = _STUDIES
    groups: tuple[Group, ...] = _GROUPS

    what = "linear"

    def layers(self) -> list[Point]:
        return [p for p in self.points if not is_limits(p) and not _is_smallest(p)]

    def slices(self) -> Iterator[tuple[str, list[Point]]]:
        """(name, points) for each number of threads and each origin of weights."""
        for threads, points in super().slices():
            for trained in (False, True):
                chosen = [p for p in points if (p.case["weights"] != "random") == trained]
                if chosen:
                    yield f"{threads}{', trained weights' if trained else ''}", chosen

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
        """(engine, points, mean, smallest) of the gain from one thread to two."""
        by_case: dict[tuple[object, ...], dict[int, Point]] = {}
        for point in self.layers():
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

    def bounds(self, threads: int) -> Bounds | None:
        """The limits that were measured with so many threads; None without them."""
        of = [p for p in self.points if p.case.get("threads") == threads]
        limits = next(filter(is_limits, of), None)
        smallest = next(filter(_is_smallest, of), None)
        return Bounds(limits, smallest) if limits and smallest else None

    def _bounded(self) -> list[Study]:
        """The studies of int8: of the others no bound is known."""
        return [study for study in self.studies if study.rate == "vpdpbusd"]

    def extra(self) -> dict[str, Any]:
        return {
            **super().extra(),
            "bounds": [
                {"slice": name, **bound.to_dict()}
                for name, points in self.slices()
                if (bounds := self.bounds(points[0].case["threads"])) is not None
                for study in self._bounded()
                for _, found in bounds.rows(study, points)
                for bound in found
                if bound is not None
            ],
            "fits": [{"slice": name, **line.to_dict()} for name, line in self.fits()],
            "scaling": [
                {"engine": name, "points": count, "geometric_mean": mean, "smallest": least}
                for name, count, mean, least in self.scaling()
            ],
        }

    def tables(self) -> Iterator[RenderableType]:
        yield from super().tables()
        for _, points in self.slices():
            if (bounds := self.bounds(points[0].case["threads"])) is None:
                continue
            for study in self._bounded():
                if (table := bound_table(study, points, bounds)) is not None:
                    yield table
        if lines := [line for _, line in self.fits()]:
            yield fit_table(lines)

    def notes(self) -> Iterator[str]:
        for point in filter(_is_smallest, self.points):
            costs = [
                f"{entry.name} {1e3 * float(format_times(entry.samples)[0]):.1f}"
                for entry in point.entries
                if entry.kind != "rate"
            ]
            threads = threads_text(point.case["threads"])
            yield f"fixed cost of a call ({point.title}, {threads}), µs: " + ", ".join(costs)
        for name, count, mean, least in self.scaling():
            gain = f"{format_ratio(mean)}, smallest {format_ratio(least)}"
            yield f"two threads over one, {name}, {count} points of at least 300 µs: {gain}"
        yield from super().notes()


def _is_smallest(point: Point) -> bool:
    return point.case.get("in") == point.case.get("out") == 16
