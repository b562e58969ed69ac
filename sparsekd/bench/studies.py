"""Ratios over many points: which engine stands against which, geometric means, fits.

The rule: a geometric mean counts the points at which the yardstick needs at least 50 us. Below
that a call's fixed cost decides, and what counts is how often ours is at least as fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsekd.bench.record import Entry, Kind, Point

__all__ = ["FLOOR_S", "Column", "Fit", "Group", "Study", "Summary", "fit", "geometric_mean"]

FLOOR_S = 50e-6

#: A name and which points it takes.
Group = tuple[str, Callable[[Point], bool]]


@dataclass(frozen=True)
class Column:
    """Our engines of one family and sparsity."""

    family: str
    sparsity: float | None

    def label(self, *, alone: bool) -> str:
        """Such as "75 %"; with the family where others stand beside it."""
        if self.sparsity is None:
            return self.family
        share = f"{100 * self.sparsity:.4g} %"
        return share if alone else f"{self.family}\n{share}"


@dataclass(frozen=True)
class Study:
    """Families of ours against one yardstick.

    Attributes:
        name: short, for files.
        families: each gives one column for every sparsity that was measured.
        kind: the yardstick is the fastest of the others of that kind; None:
        own: it is our family of this name, at the same sparsity or dense.
        rate: the limit of the machine that the engines are held against, "" for none.
        floor_s: yardsticks below it are no part of a mean.
    """

    name: str
    title: str
    families: tuple[str, ...]
    kind: Kind | None = None
    own: str = ""
    rate: str = ""
    floor_s: float = FLOOR_S

    def columns(self, points: Iterable[Point]) -> list[Column]:
        """Those that any of the points has, in the order of the families and rising sparsity."""
        found = {
            Column(entry.family, entry.sparsity)
            for point in points
            for entry in point.entries
            if entry.ours and entry.family in self.families
        }
        return sorted(found, key=lambda c: (self.families.index(c.family), c.sparsity or 0.0))

    def rows(self, points: Iterable[Point]) -> list[Point]:
        """The points that have one of the columns."""
        return [
            point
            for point in points
            if any(entry.ours and entry.family in self.families for entry in point.entries)
        ]

    def yardstick(self, point: Point, column: Column) -> Entry | None:
        """What a column is held against at a point."""
        if self.kind is not None:
            return point.best(self.kind)
        return point.find(self.own, column.sparsity) or point.find(self.own, None)

    def ratio(self, point: Point, column: Column) -> float | None:
        """Time of the yardstick over ours; above 1 we are faster."""
        entry, base = point.find(column.family, column.sparsity), self.yardstick(point, column)
        return base.seconds / entry.seconds if entry and base else None

    def utilisation(self, point: Point, column: Column) -> float | None:
        """Useful multiply-adds a second over the limit that was measured beside them."""
        entry, limit = point.find(column.family, column.sparsity), point.rate(self.rate)
        return entry.work / entry.seconds / limit if entry and entry.work and limit else None

    def summary(self, points: Sequence[Point], column: Column, group: Group) -> Summary | None:
        """One column over the points of a group; None where it has none."""
        name, belongs = group
        counted: list[tuple[float, str]] = []
        below: list[tuple[float, str]] = []
        for point in filter(belongs, points):
            ratio, base = self.ratio(point, column), self.yardstick(point, column)
            if ratio is not None and base is not None:
                (counted if base.seconds >= self.floor_s else below).append((ratio, point.title))
        if not counted and not below:
            return None
        return Summary(
            self.title,
            column,
            name,
            len(counted),
            geometric_mean([ratio for ratio, _ in counted]) if counted else None,
            min(counted)[0] if counted else None,
            min(counted)[1] if counted else "",
            len(below),
            sum(ratio >= 1.0 for ratio, _ in below),
        )


@dataclass(frozen=True)
class Summary:
    """Ratios of one column over a group of points.

    Attributes:
        points: that count; mean, smallest: their geometric mean and minimum; None without any.
        below: points whose yardstick is under the floor; as_fast: where ours is at least as fast.
    """

    study: str
    column: Column
    group: str
    points: int
    mean: float | None
    smallest: float | None
    smallest_at: str
    below: int
    as_fast: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "study": self.study,
            "family": self.column.family,
            "sparsity": self.column.sparsity,
            "group": self.group,
            "points": self.points,
            "geometric_mean": self.mean,
            "smallest": self.smallest,
            "smallest_at": self.smallest_at,
            "points_below_floor": self.below,
            "of_these_at_least_as_fast": self.as_fast,
        }


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers, at least one.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    return math.exp(sum(map(math.log, values)) / len(values))


@dataclass(frozen=True)
class Fit:
    """t = fixed + each * work over our entries of a family at one point.

    Attributes:
        fixed_s: seconds; each_s: seconds for one multiply-add with a kept weight.
        residual: the largest relative error of the line, 0..1.
    """

    family: str
    title: str
    fixed_s: float
    each_s: float
    residual: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "family": self.family,
            "title": self.title,
            "fixed_s": self.fixed_s,
            "seconds_a_multiply_add": self.each_s,
            "largest_relative_residual": self.residual,
        }


def fit(point: Point, family: str) -> Fit | None:
    """The line through a family's times against its work; None for fewer than three sparsities.

    Least squares of the relative errors, so that short times count as much as long ones.
    """
    data = [
        (float(entry.work), entry.seconds)
        for entry in point.entries
        if entry.ours and entry.family == family and entry.work
    ]
    if len({work for work, _ in data}) < 3:
        return None
    # minimize sum ((a + b w - t) / t)^2: normal equations with weights 1 / t^2
    s0 = sum(1 / t**2 for _, t in data)
    s1 = sum(w / t**2 for w, t in data)
    s2 = sum(w * w / t**2 for w, t in data)
    y0 = sum(1 / t for _, t in data)
    y1 = sum(w / t for w, t in data)
    determinant = s0 * s2 - s1 * s1
    fixed, each = (y0 * s2 - y1 * s1) / determinant, (y1 * s0 - y0 * s1) / determinant
    residual = max(abs(fixed + each * w - t) / t for w, t in data)
    return Fit(family, point.title, fixed, each, residual)
