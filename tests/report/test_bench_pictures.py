"""Pictures of measured layers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sparsekd.report import Panel, RooflinePoint, roofline_picture, speedup_picture
from sparsekd.report.bench_pictures import _halvings, _labels

PANELS = [
    Panel(
        f"{layer}->3072",
        {"1 row": [(0.0, 1.1), (0.5, 1.5), (0.875, 5.0)], "128 rows": [(0.5, 1.4), (0.75, 2.9)]},
        {"OpenVINO": 1.0, "ORT": 0.95, "torch": 0.4},
    )
    for layer in (384, 768, 1024, 4096)
]
POINTS = [
    RooflinePoint("75 %", "1 row", 0.5, 5e10),
    RooflinePoint("75 %", "128 rows", 20.0, 4e11),
    RooflinePoint("dense", "128 rows", 60.0, 8e11),
]
CEILINGS, SLOPES = {"vpdpbusd": 1e12}, {"read 8 MB": 2e11, "read 256 MB": 3e10}


def test_pictures_are_pngs_of_a_readable_size(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    speedup = speedup_picture(PANELS, tmp_path / "s.png", title="t", subtitle="s")
    roof = roofline_picture(POINTS, CEILINGS, SLOPES, tmp_path / "r.png", title="t")
    for path in (speedup, roof):
        pixels = image.imread(path)
        assert pixels.shape[0] > 500
        assert pixels.shape[1] > 1000
        assert pixels[..., :3].std() > 0.05  # something is drawn


def test_pictures_name_what_they_show(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        one = speedup_picture(PANELS, tmp_path / "s.svg", title="int8 Linear").read_text()
        two = roofline_picture(POINTS, CEILINGS, SLOPES, tmp_path / "r.svg", title="x").read_text()
    for expected in ("int8 Linear", "4096-&gt;3072", "128 rows", "OpenVINO, ORT", "torch", "87.5"):
        assert expected in one
    for expected in ("vpdpbusd 1000 G/s", "read 8 MB 200 GB/s", "75 %", "useful G multiply-adds/s"):
        assert expected in two


def test_lines_that_are_close_share_a_label() -> None:
    assert _labels({"c": 0.5, "a": 1.0, "b": 0.9, "d": 0.45}) == [("a, b", 1.0), ("c, d", 0.5)]
    assert _labels({}) == []


def test_halving_the_weights_is_one_step_to_the_right() -> None:
    assert [_halvings(s) for s in (0.0, 0.5, 0.75, 0.875)] == [0.0, 1.0, 2.0, 3.0]


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one line"):
        speedup_picture([], tmp_path / "p.png", title="t")
    with pytest.raises(ValueError, match="at least one line"):
        speedup_picture([Panel("a", {}, {})], tmp_path / "p.png", title="t")
    with pytest.raises(ValueError, match="needs points and ceilings, got 0 and 1"):
        roofline_picture([], CEILINGS, SLOPES, tmp_path / "p.png", title="t")
    with pytest.raises(ValueError, match="needs points and ceilings, got 3 and 0"):
        roofline_picture(POINTS, {}, SLOPES, tmp_path / "p.png", title="t")


def test_without_matplotlib_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'sparsekd\[report\]'"):
        speedup_picture(PANELS, tmp_path / "p.png", title="t")
