"""What the machine's measured limits leave a call of an int8 Linear: a time to hold ours against.

    bound = fixed + max(arithmetic, weights) + x + y

fixed is our call of a 16 -> 16 layer; arithmetic the multiply-adds with kept weights, and with the
padding that their mask needs, at the measured rate of vpdpbusd (dense) or of vpermb and vpdpbusd in
pairs (windowed); the others bytes over the rate of reading the measured buffer whose size is
nearest, in fp32 for x and y (writing is taken to be as fast as reading), one byte a dense weight
and two a stored windowed one. Multiplying can hide the weights' way; quantizing x comes before it
and y after. A kernel that hid those as well could come out above 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsekd.bench.record import Entry, Point
from sparsekd.bench.studies import Column, Study, geometric_mean
from sparsekd.bench.tables import new_table
from sparsekd.benchmark import format_ratio

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Bound", "Bounds", "bound_table"]

#: Family to the rate that bounds its arithmetic, and bytes of a stored weight.
_FAMILIES: Mapping[str, tuple[str, int]] = {
    "dense int8": ("vpdpbusd", 1),
    "int8 n:32": ("vpermb+dot", 2),
    "int8 any mask": ("vpermb+dot", 2),
    "int8 any mask, snapped": ("vpermb+dot", 2),
}
# Buffers whose reading is timed (sparsekd.bench.rates).
_LEVELS = (
    (1 << 15, "read 32 KB"),
    (1 << 19, "read 512 KB"),
    (8 << 20, "read 8 MB"),
    (256 << 20, "read 256 MB"),
)


@dataclass(frozen=True)
class Bound:
    """One of our engines at one point. ``seconds``: what the limits leave it."""

    point: Point
    entry: Entry
    seconds: float

    @property
    def share(self) -> float:
        """The bound over the time that was measured: 1 is as fast as the limits allow."""
        return self.seconds / self.entry.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "title": self.point.title,
            "engine": self.entry.name,
            "bound_s": self.seconds,
            "share": self.share,
        }


@dataclass(frozen=True)
class Bounds:
    """The limits of one run with one number of threads.

    Attributes:
        limits: the point that holds the measured rates.
        smallest: the point of the 16 -> 16 layer.
    """

    limits: Point
    smallest: Point

    def of(self, point: Point, column: Column) -> Bound | None:
        """None where the point lacks the engine or the run lacks a limit."""
        entry = point.find(column.family, column.sparsity)
        if entry is None or not entry.work or column.family not in _FAMILIES:
            return None
        name, bytes_of_weight = _FAMILIES[column.family]
        pairs = self.limits.rate(name)
        fixed = [e.seconds for e in self.smallest.entries if e.family == column.family]
        # n:m masks need no padding, and their engines need not say so.
        work = entry.work / float(entry.config.get("filled", 1.0) if bytes_of_weight > 1 else 1.0)
        rows, inputs, outputs = (int(point.case[key]) for key in ("rows", "in", "out"))
        reads = [
            self._read_s(size)
            for size in (
                int(work) // rows * bytes_of_weight,
                4 * rows * inputs,
                4 * rows * outputs,
            )
        ]
        if pairs is None or not fixed or None in reads:
            return None
        weights, x, y = (float(seconds or 0.0) for seconds in reads)
        return Bound(point, entry, min(fixed) + max(work / pairs, weights) + x + y)

    def _read_s(self, size: int) -> float | None:
        _, name = min(_LEVELS, key=lambda level: abs(math.log(level[0] / max(size, 1))))
        for entry in self.limits.entries:
            if entry.name == name and entry.moved:
                return size * entry.seconds / entry.moved
        return None

    def rows(
        self, study: Study, points: Sequence[Point]
    ) -> Iterator[tuple[Point, list[Bound | None]]]:
        """The points that have any bound, with one for each column."""
        columns = study.columns(points)
        for point in study.rows(points):
            found = [self.of(point, column) for column in columns]
            if any(found):
                yield point, found


def bound_table(study: Study, points: Sequence[Point], bounds: Bounds) -> Table | None:
    """Our share of the bound, and the ratio to the yardstick that the bound itself would have."""
    rows, columns = list(bounds.rows(study, points)), study.columns(points)
    if not rows:
        return None
    table = new_table("share of the bound, and the bound's own ratio to the yardstick")
    table.add_column("")
    for column in columns:
        table.add_column(column.label(alone=True), justify="right")
    shares: list[list[float]] = [[] for _ in columns]
    ratios: list[list[float]] = [[] for _ in columns]
    for point, found in rows:
        cells = []
        for i, (column, bound) in enumerate(zip(columns, found, strict=True)):
            base = study.yardstick(point, column)
            if bound is None or base is None:
                cells.append("-")
                continue
            ratio = base.seconds / bound.seconds
            cells.append(f"{bound.share:.2f} {ratio:.2f}x")
            if base.seconds >= study.floor_s:
                shares[i].append(bound.share)
                ratios[i].append(ratio)
        table.add_row(point.title, *cells)
    table.add_section()
    for name, function in (("mean", geometric_mean), ("least", min)):
        both = [
            f"{function(s):.2f} {format_ratio(function(r))}" if s else "-"
            for s, r in zip(shares, ratios, strict=True)
        ]
        table.add_row(name, *both)
    return table
