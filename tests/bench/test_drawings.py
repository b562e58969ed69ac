"""Which panels, lines and points a study becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsekd.bench import drawings
from sparsekd.bench.linear import _place
from sparsekd.bench.linear_result import LinearBenchResult
from sparsekd.bench.record import Entry, Point
from sparsekd.benchmark import Samples

WHERE = {"cpu": "a cpu", "threads": 2, "isa": "scalar", "versions": {"torch": "2.13"}}


def entry(name: str, kind: Any, us: float, family: str = "", sparsity: Any = None) -> Entry:
    samples = Samples((us * 1e-6,))
    rate = {"work": 1000, "moved": None if kind == "rate" else 500}
    return Entry(name, kind, bool(family), "1", {}, 0.0, 0.0, samples, family, sparsity, **rate)


def point(rows: int, ours_us: float) -> Point:
    case = {"rows": rows, "in": 768, "out": 3072, "weights": "random", "threads": 2}
    entries = (
        entry("dense", "dense int8", 80.0, "dense int8"),
        entry("half", "sparse int8", ours_us, "int8 n:32", 0.5),
        entry("OpenVINO int8", "dense int8", 100.0),
        entry("torch dynamic int8", "dense int8", 200.0),
        entry("vpdpbusd", "rate", 1.0),
    )
    return Point(f"{rows}x768->3072", case, entries)


def limits() -> Point:
    reading = Entry("read 8 MB", "rate", False, "1", {}, None, 0.0, Samples((1e-3,)), moved=10**8)
    entries = (entry("vpdpbusd", "rate", 1.0), reading)
    return Point("limits", {"machine": "limits", "threads": 2}, entries)


def result(*points: Point) -> LinearBenchResult:
    return LinearBenchResult(points, {}, WHERE)


def test_a_line_for_the_rows_and_dense_weights_at_its_start() -> None:
    found = result(point(1, 50.0), point(128, 25.0))
    panels = drawings._panels(found.studies[0], found.layers(), _place)
    assert len(panels) == 1
    assert panels[0].title == "768->3072"
    lines = {name: list(points) for name, points in panels[0].lines.items()}
    assert lines == {
        "1 row": [(0.0, pytest.approx(1.25)), (0.5, pytest.approx(2.0))],
        "128 rows": [(0.0, pytest.approx(1.25)), (0.5, pytest.approx(4.0))],
    }
    assert panels[0].others == {
        "OpenVINO": pytest.approx(1.0),
        "torch dynamic": pytest.approx(0.5),
    }


def test_points_of_the_roofline() -> None:
    found = result(point(128, 25.0))
    dots = drawings._dots(found.studies[0], found.layers(), _place)
    assert [(dot.group, dot.mark) for dot in dots] == [
        ("dense int8", "128 rows"),
        ("50 %", "128 rows"),
    ]
    assert dots[1].intensity == pytest.approx(2.0)
    assert dots[1].rate == pytest.approx(1000 / 25e-6)


def test_limits_are_ceilings_and_slopes() -> None:
    ceilings, slopes = drawings._roof(limits(), result().studies[0])
    assert ceilings == {"vpdpbusd": pytest.approx(1e9)}
    assert slopes == {"read 8 MB": pytest.approx(1e11)}


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    found = result(limits(), point(1, 50.0))
    names = [path.name for path in drawings.draw(found, tmp_path, _place)]
    assert names == [
        "linear-int8-2-threads.png",
        "linear-int8-2-threads-roofline.png",
        "linear-int8-dense-2-threads.png",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    without = [path.name for path in drawings.draw(result(point(1, 50.0)), tmp_path, _place)]
    assert without == ["linear-int8-2-threads.png", "linear-int8-dense-2-threads.png"]  # no roof
    monkeypatch.setattr(drawings, "find_spec", lambda name: None)
    assert drawings.draw(found, tmp_path, _place) == ()
