"""Ratios over points: yardsticks, means under the 50 us rule, lines through times."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sparsekd.bench.record import Entry, Point
from sparsekd.bench.studies import Column, Study, fit, geometric_mean
from sparsekd.benchmark import Samples

STUDY = Study("s", "s", ("int8 n:32",), kind="dense int8", rate="vpdpbusd")
HALF = Column("int8 n:32", 0.5)


def entry(
    kind: Any, us: float, family: str = "", sparsity: float | None = None, work: int = 0
) -> Entry:
    samples = Samples((us * 1e-6,))
    name = "vpdpbusd" if kind == "rate" else f"{family or kind} {us:g}"
    return Entry(name, kind, bool(family), "1", {}, 0.0, 0.0, samples, family, sparsity, work)


def point(title: str, peer: float, ours: float) -> Point:
    entries = (
        entry("dense int8", peer),
        entry("dense int8", 2 * peer),
        entry("sparse int8", ours, "int8 n:32", 0.5, work=1000),
        entry("rate", 4.0, work=8000),
    )
    return Point(title, {"title": title}, entries)


def all_of(_: Point) -> bool:
    return True


def test_short_yardsticks_count_beside_the_mean() -> None:
    points = [point("a", 100, 50), point("b", 800, 100), point("c", 49, 98), point("d", 10, 10)]
    found = STUDY.summary(points, HALF, ("all", all_of))
    assert found is not None
    assert found.points == 2
    assert found.mean == pytest.approx(4.0)  # of 2 and 8
    assert (found.smallest, found.smallest_at) == (pytest.approx(2.0), "a")
    assert (found.below, found.as_fast) == (2, 1)


def test_without_long_yardsticks_there_is_no_mean() -> None:
    found = STUDY.summary([point("a", 10, 5)], HALF, ("all", all_of))
    assert found is not None
    assert found.mean is None
    assert found.smallest is None
    assert (found.below, found.as_fast) == (1, 1)
    assert STUDY.summary([point("a", 100, 50)], HALF, ("none", lambda _: False)) is None


def test_share_of_the_measured_rate() -> None:
    share = STUDY.utilisation(point("a", 100, 2), HALF)
    assert share == pytest.approx((1000 / 2e-6) / (8000 / 4e-6))


def test_yardstick_of_our_own_has_the_same_sparsity_or_none() -> None:
    study = Study("s", "s", ("bf16",), own="fp32")
    entries = (
        entry("sparse fp32", 30, "fp32", 0.5),
        entry("sparse fp32", 10, "fp32", 0.75),
        entry("sparse bf16", 5, "bf16", 0.75),
        entry("sparse bf16", 4, "bf16", 0.9),
    )
    there = Point("p", {}, entries)
    assert study.ratio(there, Column("bf16", 0.75)) == pytest.approx(2.0)
    assert study.ratio(there, Column("bf16", 0.9)) is None
    dense = Point("p", {}, (*entries, entry("dense fp32", 40, "fp32")))
    assert study.ratio(dense, Column("bf16", 0.9)) == pytest.approx(10.0)
    assert study.columns([there]) == [Column("bf16", 0.75), Column("bf16", 0.9)]


def line_of(times: dict[int, float]) -> Point:
    entries = [entry("sparse int8", us, "f", 1 - w / 100, work=w) for w, us in times.items()]
    return Point("p", {}, tuple(entries))


def test_line_through_exact_times() -> None:
    found = fit(line_of({10: 25.0, 20: 45.0, 50: 105.0, 90: 185.0}), "f")
    assert found is not None
    assert found.fixed_s == pytest.approx(5e-6)
    assert found.each_s == pytest.approx(2e-6)
    assert found.residual == pytest.approx(0.0, abs=1e-9)


def test_line_minimizes_relative_errors() -> None:
    times = {10: 25.0, 20: 50.0, 50: 100.0}
    found = fit(line_of(times), "f")
    assert found is not None

    def loss(fixed: float, each: float) -> float:
        return sum(((fixed + each * w) / (us * 1e-6) - 1) ** 2 for w, us in times.items())

    least = loss(found.fixed_s, found.each_s)
    for change in (0.99, 1.01):
        assert loss(found.fixed_s * change, found.each_s) > least
        assert loss(found.fixed_s, found.each_s * change) > least
    worst = max(
        abs((found.fixed_s + found.each_s * w) / (us * 1e-6) - 1) for w, us in times.items()
    )
    assert found.residual == pytest.approx(worst)


def test_a_line_needs_three_sparsities() -> None:
    assert fit(line_of({10: 25.0, 20: 45.0}), "f") is None
    assert fit(line_of({10: 25.0, 20: 45.0, 50: 105.0}), "g") is None


def test_geometric_mean() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([0.5]) == pytest.approx(0.5)
    assert math.isclose(geometric_mean([1.0, 10.0, 100.0]), 10.0)
