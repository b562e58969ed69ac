"""Bars of times: what is drawn, in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsekd.report import Bar, BarPanel, time_bars_picture
from sparsekd.report.time_bars import _draw_panel

pytest.importorskip("matplotlib")


def bar(name: str, ms: float, group: str = "ours") -> Bar:
    return Bar(name, group, ms / 1e3, 0.9 * ms / 1e3, 1.2 * ms / 1e3)


def test_the_fastest_stands_above() -> None:
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    panel = BarPanel("a", [bar("slow", 4.0), bar("fast", 1.0, "others")])
    _draw_panel(axis, panel, ["ours", "others"])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["fast", "slow"]
    assert [patch.get_width() for patch in axis.patches] == [1.0, 4.0]
    assert axis.yaxis_inverted()


def test_a_picture_of_several_cases(tmp_path: Path) -> None:
    panels = [BarPanel(f"case {i}", [bar("a", 1.0 + i), bar("b", 2.0)]) for i in range(3)]
    target = time_bars_picture(panels, tmp_path / "bars.png", title="t", subtitle="s")
    assert target.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("panels", [[], [BarPanel("empty", [])]])
def test_nothing_to_draw_is_an_error(panels: list[BarPanel], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one bar"):
        time_bars_picture(panels, tmp_path / "x.png", title="t")
