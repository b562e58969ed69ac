"""Points that were written down are taken up again, those of other conditions are not."""

from __future__ import annotations

from pathlib import Path

from sparsekd.bench.journal import Journal, conditions
from sparsekd.bench.record import Entry, Point
from sparsekd.benchmark import Samples


def point(rows: int) -> Point:
    entry = Entry(
        "ours", "sparse int8", True, "1", {"threads": 2}, 1e-3, 0.1, Samples((1e-3, 2e-3)),
        "int8 n:32", 0.75, 640, 1280,
    )  # fmt: skip
    rate = Entry("vpdpbusd", "rate", False, "1", {}, None, 0.1, Samples((1e-3,)), work=10)
    return Point(f"{rows} rows", {"rows": rows}, (entry, rate), {"other": "not here"}, 0.25)


def test_points_come_back_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "linear", {"a": 1})
    journal.add(point(1))
    journal.add(point(2))
    again = Journal(tmp_path, "linear", {"a": 1})
    assert list(again.points.values()) == [point(1), point(2)]
    assert again.points.keys() == {point(1).key, point(2).key}
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_other_conditions_have_another_file(tmp_path: Path) -> None:
    Journal(tmp_path, "linear", {"a": 1}).add(point(1))
    assert Journal(tmp_path, "linear", {"a": 2}).points == {}
    assert Journal(tmp_path, "conv", {"a": 1}).points == {}
    assert len(Journal(tmp_path, "linear", {"a": 1}).points) == 1


def test_a_line_cut_short_is_dropped_and_overwritten(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "linear", {})
    journal.add(point(1))
    journal.add(point(2))
    text = journal.path.read_text()
    for cut in (len(text) - 1, len(text) - 30, text.index("\n") + 2):
        journal.path.write_text(text[:cut])
        again = Journal(tmp_path, "linear", {})
        found = [p.title for p in again.points.values()]
        assert found == (["1 rows", "2 rows"] if cut == len(text) - 1 else ["1 rows"])
        again.add(point(3))
        assert [p.title for p in Journal(tmp_path, "linear", {}).points.values()][-1] == "3 rows"


def test_date_and_load_do_not_part_runs() -> None:
    where = {"date": "today", "load": 0.1, "threads": 2, "cpu": "a"}
    assert conditions({"r": 1}, where) == conditions({"r": 1}, {**where, "date": "x", "load": 9})
    assert conditions({"r": 1}, where) != conditions({"r": 2}, where)
    assert conditions({"r": 1}, where) != conditions({"r": 1}, {**where, "cpu": "b"})
