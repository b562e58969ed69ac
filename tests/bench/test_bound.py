"""The bound of a call from the measured limits, on figures small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparsekd.bench.bound import Bounds
from sparsekd.bench.linear_result import LinearBenchResult
from sparsekd.bench.record import Entry, Point
from sparsekd.bench.studies import Column
from sparsekd.benchmark import Samples

HALF, DENSE = Column("int8 n:32", 0.5), Column("dense int8", None)


def entry(name: str, kind: Any, seconds: float, **fields: Any) -> Entry:
    ours = kind != "rate" and "family" in fields
    return Entry(name, kind, ours, "1", {}, None, 0.0, Samples((seconds,)), **fields)


# 100 G multiply-adds/s dense, 50 in pairs; 1000, 400, 200 and 20 GB/s.
LIMITS = Point(
    "limits",
    {"machine": "limits", "threads": 2},
    (
        entry("vpdpbusd", "rate", 1e-3, work=10**8),
        entry("vpermb+dot", "rate", 1e-3, work=5 * 10**7),
        entry("read 32 KB", "rate", 1e-3, moved=10**9),
        entry("read 512 KB", "rate", 1e-3, moved=4 * 10**8),
        entry("read 8 MB", "rate", 1e-3, moved=2 * 10**8),
        entry("read 256 MB", "rate", 1e-3, moved=2 * 10**7),
    ),
)


def layer(rows: int, inputs: int, outputs: int, half_s: float, dense_s: float) -> Point:
    work = rows * inputs * outputs
    case = {"rows": rows, "in": inputs, "out": outputs, "threads": 2, "weights": "random"}
    half = {"family": HALF.family, "sparsity": 0.5, "work": work // 2}
    entries = (
        entry("dense", "dense int8", dense_s, family=DENSE.family, work=work),
        entry("half", "sparse int8", half_s, **half),
        entry("peer", "dense int8", 4e-4),
    )
    return Point(f"{rows}x{inputs}->{outputs}", case, entries)


SMALLEST = layer(1, 16, 16, 3e-6, 2e-6)
BOUNDS = Bounds(LIMITS, SMALLEST)


def test_many_rows_are_bound_by_arithmetic() -> None:
    point = layer(128, 1024, 1024, 4e-3, 2e-3)
    bound = BOUNDS.of(point, HALF)
    assert bound is not None
    # x and y: 512 KB each at 400 GB/s
    expected = 3e-6 + 128 * 2**19 / 5e10 + 2 * 2**19 / 4e11
    assert bound.seconds == pytest.approx(expected)
    assert bound.share == pytest.approx(expected / 4e-3)
    dense = BOUNDS.of(point, DENSE)
    assert dense is not None
    assert dense.seconds == pytest.approx(2e-6 + 128 * 2**20 / 1e11 + 2 * 2**19 / 4e11)


def test_one_row_is_bound_by_the_bytes_of_the_weights() -> None:
    bound = BOUNDS.of(layer(1, 4096, 4096, 1e-3, 1e-3), HALF)
    assert bound is not None
    # 2^23 kept weights of two bytes, nearest to 8 MB; x and y are 16 KB each
    weights = 2**24 / 2e11
    arithmetic = 2**23 / 5e10
    assert weights < arithmetic
    assert bound.seconds == pytest.approx(3e-6 + arithmetic + 2 * 2**14 / 1e12)
    slower = entry("read 8 MB", "rate", 1e-2, moved=2 * 10**8)
    entries = tuple(slower if e.name == slower.name else e for e in LIMITS.entries)
    far = Bounds(Point("limits", LIMITS.case, entries), SMALLEST)
    bound = far.of(layer(1, 4096, 4096, 1e-3, 1e-3), HALF)
    assert bound is not None
    assert bound.seconds == pytest.approx(3e-6 + 2**24 / 2e10 + 2 * 2**14 / 1e12)


def test_no_bound_without_its_limit() -> None:
    without = Point("limits", LIMITS.case, LIMITS.entries[:1])
    assert Bounds(without, SMALLEST).of(layer(8, 64, 64, 1e-3, 1e-3), HALF) is None
    absent = Column("int8 n:32", 0.75)
    assert BOUNDS.of(layer(8, 64, 64, 1e-3, 1e-3), absent) is None


def test_a_result_tells_shares_and_ratios() -> None:
    point = layer(128, 1024, 1024, 4e-3, 2e-3)
    where = {"cpu": {"model": "c"}, "threads": {}, "kernel": "k", "packages": {}, "date": "d"}
    result = LinearBenchResult((LIMITS, SMALLEST, point), {}, where)
    told = result.extra()["bounds"]
    assert [(b["engine"], b["title"]) for b in told] == [
        ("dense", "128x1024->1024"),
        ("half", "128x1024->1024"),
    ]
    bound = BOUNDS.of(point, HALF)
    assert bound is not None
    assert told[1]["share"] == pytest.approx(bound.share)
    assert LinearBenchResult((SMALLEST, point), {}, where).extra()["bounds"] == []


def test_padding_takes_as_much_arithmetic_as_weights() -> None:
    point = layer(128, 1024, 1024, 4e-3, 2e-3)
    padded = Column("int8 any mask", 0.9)
    entries = [
        Entry(
            e.name,
            e.kind,
            True,
            "1",
            {"filled": 0.5},
            None,
            0.0,
            e.samples,
            padded.family,
            0.9,
            e.work,
        )
        for e in point.entries
        if e.sparsity == 0.5
    ]
    half = BOUNDS.of(point, HALF)
    smallest = replace(
        SMALLEST,
        entries=tuple(replace(e, family=padded.family) for e in SMALLEST.entries if e.sparsity),
    )
    twice = Bounds(LIMITS, smallest).of(replace(point, entries=tuple(entries)), padded)
    assert half is not None
    assert twice is not None
    assert twice.seconds - half.seconds == pytest.approx(128 * 2**19 / 5e10)
