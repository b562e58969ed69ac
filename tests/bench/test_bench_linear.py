"""``bench linear``: what is asked for is measured, and what is measured is told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsekd.bench import LinearBenchConfig, bench_linear
from sparsekd.bench.linear import run_point
from sparsekd.bench.peers import Engine, LinearProblem, Peer, PeerMissingError, torch_peers
from sparsekd.bench.result import Entry, LinearBenchResult, Point
from sparsekd.benchmark import Samples
from sparsekd.report import show


def entry(name: str, kind: Any, ms: float, ours: bool = False) -> Entry:
    return Entry(name, kind, ours, "1.0", {"threads": 1}, 1e-3, 0.1, Samples((ms / 1e3,)))


POINT = Point(
    768,
    3072,
    16,
    (
        entry("ours 4:32", "sparse int8", 1.0, ours=True),
        entry("ours dense", "dense int8", 4.0, ours=True),
        entry("a fp32", "dense fp32", 8.0),
        entry("b int8", "dense int8", 3.0),
        entry("c int8", "dense int8", 5.0),
    ),
    {"d int8": "d: not installed, pip install 'sparsekd[bench]'"},
)


WHERE = {"cpu": "a cpu", "threads": 1, "isa": "scalar", "versions": {"torch": "2.13"}}


def text_of(result: object) -> str:
    stream = io.StringIO()
    show(result, stream)
    return stream.getvalue()


def test_ratios_refer_to_the_best_of_the_others() -> None:
    ours, dense = POINT.entries[:2]
    best = POINT.best("dense int8")
    assert best is not None
    assert best.name == "b int8"
    assert POINT.ratio(ours, "dense int8") == pytest.approx(3.0)
    assert POINT.ratio(ours, "dense fp32") == pytest.approx(8.0)
    assert POINT.ratio(dense, "dense int8") == pytest.approx(0.75)
    assert POINT.best("dense bf16") is None
    assert POINT.ratio(ours, "dense bf16") is None


def test_table_marks_losses_and_names_the_absent() -> None:
    result = LinearBenchResult((POINT,), {"threads": 1}, WHERE)
    text = text_of(result)
    point = text.split("rows x in -> out")[0].splitlines()

    def line_of(name: str) -> str:
        return next(line for line in point if line.strip().startswith(name))

    assert "3.00x" in line_of("ours 4:32")
    assert "!" not in line_of("ours 4:32")
    assert "0.75x !" in line_of("ours dense")
    assert "best" in line_of("b int8")
    assert "best" not in line_of("c int8")
    assert "d int8: d: not installed, pip install 'sparsekd[bench]'" in text
    summary = [line for line in text.splitlines() if "16 x 768 -> 3072" in line and "ours" in line]
    assert "8.00x" in summary[0]
    assert "0.75x !" in summary[1]


def test_whole_run_writes_every_sample(tmp_path: Path) -> None:
    config = LinearBenchConfig(
        shapes="64x32, 40x16",
        rows=[1, 3],
        sparsities="0.75",
        threads=1,
        rounds=2,
        pause_s=0.0,
        peers=False,
        out=str(tmp_path / "new" / "folder"),
    )
    before = torch.get_num_threads()
    result = bench_linear(config, progress=False)
    assert torch.get_num_threads() == before
    read = json.loads(result.files[0].read_text())
    assert read == json.loads(result.to_json())
    shapes = [(p["rows"], p["in_features"], p["out_features"]) for p in read["points"]]
    assert shapes == [(1, 64, 32), (3, 64, 32), (1, 40, 16), (3, 40, 16)]
    assert read["environment"]["threads"] == 1
    assert read["settings"]["sparsities"] == "0.75"
    engines = {engine["name"]: engine for engine in read["points"][0]["engines"]}
    assert {"sparsekd 8:32", "sparsekd dense int8", "torch fp32"} <= set(engines)
    ours = engines["sparsekd 8:32"]
    assert ours["ratio_to_best_dense_fp32"] > 0
    assert ours["error"] < 0.05
    assert len(ours["samples_s"]) == 2 * 5
    assert ours["version"].startswith("sparsekd ")
    assert "ratio_to_best_dense_fp32" not in engines["torch fp32"]


def test_a_wrong_a_failing_and_a_missing_engine_are_named_and_not_timed() -> None:
    problem = LinearProblem.random(8, 4, 2, threads=1)

    def wrong(given: LinearProblem) -> Engine:
        return Engine("x 1", lambda: None, lambda index: torch.zeros(2, 4))

    def failing(given: LinearProblem) -> Engine:
        raise RuntimeError("no such instruction\nand more")

    def missing(given: LinearProblem) -> Engine:
        raise PeerMissingError("z: not installed")

    peers = [
        torch_peers()[0],
        Peer("wrong", "dense fp32", wrong),
        Peer("failing", "dense int8", failing),
        Peer("missing", "dense int8", missing),
    ]
    point = run_point(problem, peers, rounds=1, pause_s=0.0)
    assert [e.name for e in point.entries] == ["torch fp32"]
    assert point.absent == {
        "wrong": "not timed: its output is wrong (relative error 1.0e+00)",
        "failing": "failed: RuntimeError: no such instruction",
        "missing": "z: not installed",
    }


def test_our_own_failure_is_not_hidden() -> None:
    def failing(given: LinearProblem) -> Engine:
        raise RuntimeError("ours is broken")

    problem = LinearProblem.random(8, 4, 2, threads=1)
    with pytest.raises(RuntimeError, match="ours is broken"):
        run_point(problem, [Peer("ours", "sparse int8", failing, ours=True)], rounds=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shapes": "768"}, "a shape is <in>x<out> such as 768x3072, got '768'"),
        ({"shapes": "768x0"}, "out features must be a whole number of at least 1, got '0'"),
        ({"rows": "1,-2"}, "rows must be a whole number of at least 1, got '-2'"),
        ({"sparsities": "0.5,half"}, "sparsities must be numbers"),
        ({"sparsities": "0.9"}, "sparsity 0.9 is no n:32 pattern"),
        ({"threads": 0}, "threads >= 1"),
        ({"rounds": 0}, "rounds >= 1"),
    ],
)
def test_bad_settings_are_refused_before_any_work(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        LinearBenchConfig(**wrong)
