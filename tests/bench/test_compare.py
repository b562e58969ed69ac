"""``bench/compare.py``: what got slower is found, noise is not."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sparsekd.bench.record import SCHEMA, BenchResult, Entry, Point
from sparsekd.benchmark import Samples

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "compare.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_compare", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_compare"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def result(what: str, times: dict[tuple[str, str], tuple[float, ...]]) -> BenchResult:
    """``times``: (title, engine) to milliseconds; engines whose name begins with "our" are ours."""
    points: dict[str, list[Entry]] = {}
    for (title, name), ms in times.items():
        samples = Samples(tuple(t / 1e3 for t in ms))
        ours = name.startswith("our")
        entry = Entry(name, "dense int8", ours, "1", {}, 0.0, 0.0, samples)
        points.setdefault(title, []).append(entry)
    told = tuple(Point(t, {"title": t}, tuple(e)) for t, e in points.items())
    made = type("Made", (BenchResult,), {"what": what})(told, {}, {})
    assert isinstance(made, BenchResult)
    return made


BEFORE = {
    ("a", "ours"): (1.0, 1.01, 1.02),
    ("b", "ours"): (1.0, 1.2, 1.4),
    ("c", "ours"): (1.0, 1.0, 1.0),
    ("d", "ours"): (1.0, 1.0, 1.0),
    ("a", "peer"): (2.0, 2.0, 2.0),
    ("gone", "ours"): (1.0,),
}
AFTER = {
    ("a", "ours"): (1.3, 1.31, 1.32),  # slower
    ("b", "ours"): (1.1, 1.35, 1.5),  # within the spread
    ("c", "ours"): (1.04, 1.04, 1.04),  # within the tolerance
    ("d", "ours"): (0.5, 0.5, 0.5),  # faster
    ("a", "peer"): (4.0, 4.0, 4.0),
    ("new", "ours"): (1.0,),
}


def files(folder: Path, before: BenchResult, after: BenchResult) -> list[str]:
    paths = [folder / "before.json", folder / "after.json"]
    for path, one in zip(paths, (before, after), strict=True):
        path.write_text(one.to_json())
    return [str(path) for path in paths]


@pytest.mark.parametrize("what", ["linear", "conv", "model"])
def test_changes_beyond_the_spread(compare: ModuleType, what: str) -> None:
    both, alone = compare.changes(result(what, BEFORE).to_dict(), result(what, AFTER).to_dict())
    told = {(c.title, c.engine): c.verdict for c in both}
    assert told == {
        ("a", "ours"): "slower",
        ("b", "ours"): "same",
        ("c", "ours"): "same",
        ("d", "ours"): "faster",
        ("a", "peer"): "slower",
    }
    assert alone == ["only before: gone, ours", "only after: new, ours"]


def test_exit_status(
    compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = files(tmp_path, result("conv", BEFORE), result("conv", AFTER))
    assert compare.main(paths) == 0
    text = capsys.readouterr().out
    assert "ours: 1 slower, 1 faster of 4" in text
    assert "others (the two hours) 0.500x over 1" in text
    assert "only after: new, ours" in text
    assert "1.04" not in text
    assert compare.main([*paths, "--all"]) == 0
    assert "1.04" in capsys.readouterr().out
    assert compare.main([*paths, "--fail"]) == 1
    assert compare.main([*reversed(paths), "--fail"]) == 1  # d
    assert compare.main([*paths, "--fail", "--tolerance", "0.5"]) == 0


def test_a_slower_peer_is_no_regression_of_ours(compare: ModuleType, tmp_path: Path) -> None:
    before, after = ({("a", "peer"): (ms,), ("a", "ours"): (1.0,)} for ms in (1.0, 9.0))
    paths = files(tmp_path, result("linear", before), result("linear", after))
    assert compare.main([*paths, "--fail"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "schema None, expected 1"),
        (json.dumps({"schema": 99}), "schema 99, expected 1"),
    ],
)
def test_files_that_are_no_results(
    compare: ModuleType, tmp_path: Path, text: str, message: str, capsys: Any
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(result("linear", BEFORE).to_json())
    bad.write_text(text)
    assert compare.main([str(good), str(bad)]) == 2
    assert message in capsys.readouterr().err
    assert compare.main([str(good), str(tmp_path / "missing.json")]) == 2


def test_results_that_can_not_be_compared(
    compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = files(tmp_path, result("linear", BEFORE), result("conv", BEFORE))
    assert compare.main(paths) == 2
    assert "one is of bench linear, the other of bench conv" in capsys.readouterr().err
    apart = files(tmp_path, result("conv", {("x", "ours"): (1.0,)}), result("conv", BEFORE))
    assert compare.main(apart) == 2
    assert "no point in common" in capsys.readouterr().err


def test_the_script_knows_the_schema_that_is_written(compare: ModuleType) -> None:
    assert compare.SCHEMA == SCHEMA
