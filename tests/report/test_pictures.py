"""Pictures and printing."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from sparsekd.report import Series, accuracy_latency_picture, show

SERIES = [
    Series("teacher", 0.985, 0.002, {"batch 1": 1e-3, "batch 32": 3e-3}, 17_000_000),
    Series("student", 0.980, 0.001, {"batch 1": 2e-5, "batch 32": 4e-5}, 290_000),
]


def test_picture_is_a_png_of_a_readable_size(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    path = accuracy_latency_picture(SERIES, tmp_path / "p.png", title="t", subtitle="s")
    pixels = image.imread(path)
    assert pixels.shape[0] > 600
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05  # something is drawn


def test_picture_shows_names_sizes_units_and_panels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "p.svg"
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        accuracy_latency_picture(SERIES, path, title="accuracy against latency")
    text = path.read_text()
    for expected in (
        "accuracy against latency",
        "teacher (17.00 MB)",
        "student (290 kB)",
        "batch 1<",
        "batch 32<",
        "latency, ms a batch (log scale)",
        "accuracy on held-out images, %",
    ):
        assert expected in text


def test_picture_refuses_what_it_can_not_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one series"):
        accuracy_latency_picture([], tmp_path / "p.png", title="t")
    other = Series("other", 0.9, 0.0, {"batch 2": 1.0}, 1)
    with pytest.raises(ValueError, match="same cases"):
        accuracy_latency_picture([SERIES[0], other], tmp_path / "p.png", title="t")


def test_without_matplotlib_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'sparsekd\[report\]'"):
        accuracy_latency_picture(SERIES, tmp_path / "p.png", title="t")


def test_show_prints_plain_and_wide_into_a_file() -> None:
    stream = io.StringIO()
    show("[red]" + "x" * 110 + "[/red]", stream)
    assert stream.getvalue() == "x" * 110 + "\n"
