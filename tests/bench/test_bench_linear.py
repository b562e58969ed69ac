"""``bench linear``: what is asked for is measured, and what is measured is told."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsekd import backend
from sparsekd.bench import LinearBenchConfig, LinearBenchResult, bench_linear
from sparsekd.bench import linear as module
from sparsekd.bench.isa import forced_isa
from sparsekd.bench.linear import run_linear
from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.peers import Engine, PeerMissingError
from sparsekd.bench.record import Entry, Point
from sparsekd.bench.runner import Contender, Timing
from sparsekd.bench.torch_runtime import torch_peers
from sparsekd.benchmark import Samples
from sparsekd.report import show

QUICK = Timing(rounds=1, calls=2, pause_s=0.0, min_block_s=0.0)


def entry(name: str, kind: Any, ms: float, family: str = "", sparsity: Any = None) -> Entry:
    samples = Samples((ms / 1e3,))
    ours = bool(family)
    return Entry(name, kind, ours, "1.0", {}, 1e-3, 0.1, samples, family, sparsity, work=10**9)


def point(rows: int, ms: float) -> Point:
    """Times in units of ``ms``: dense peers 8 (fp32), 3 and 5 (int8); ours 1 and 4."""
    return Point(
        f"{rows}x768->3072",
        {"rows": rows, "in": 768, "out": 3072, "weights": "random", "threads": 1, "isa": "scalar"},
        (
            entry("ours 4:32", "sparse int8", 1.0 * ms, "int8 n:32", 0.875),
            entry("ours dense", "dense int8", 4.0 * ms, "dense int8"),
            entry("a fp32", "dense fp32", 8.0 * ms),
            entry("b int8", "dense int8", 3.0 * ms),
            entry("c int8", "dense int8", 5.0 * ms),
            entry("vpdpbusd", "rate", 2.0 * ms),
        ),
        {"d int8": "d: not installed, pip install 'sparsekd[bench]'"},
    )


WHERE = {"cpu": "a cpu", "threads": 1, "isa": "scalar", "versions": {"torch": "2.13"}}


def text_of(result: object) -> str:
    stream = io.StringIO()
    show(result, stream)
    return stream.getvalue()


def test_table_has_ratios_to_the_best_of_the_others_marks_losses_and_names_the_absent() -> None:
    result = LinearBenchResult((point(16, 1.0), point(1, 0.001)), {}, WHERE)
    text = text_of(result)
    lines = {line[:18].strip(): line for line in reversed(text.splitlines())}
    assert "b 3.00" in lines["16x768->3072"]
    assert "4.00 0.75x !" in lines["16x768->3072"]
    assert "1.00 3.00x" in lines["16x768->3072"]
    assert "0.75x !" in lines["mean, all"]
    assert "3.00x" in lines["mean, all"]
    assert "0 of 1" in lines["as fast, <50 µs"]
    assert "1 of 1" in lines["as fast, <50 µs"]
    assert "d int8: d: not installed, pip install 'sparsekd[bench]' (16x768->3072 and" in text
    assert "useful multiply-adds over the measured rate" in " ".join(text.split())
    assert "16x768->3072 500 0.50 2.00" in " ".join(text.split())


def test_summaries_stand_in_the_file() -> None:
    told = LinearBenchResult((point(16, 1.0), point(8, 2.0)), {}, WHERE).to_dict()
    assert (told["schema"], told["what"]) == (1, "linear")
    found = [
        s
        for s in told["summaries"]
        if (s["family"], s["group"]) == ("int8 n:32", "all") and "of the others" in s["study"]
    ]
    assert len(found) == 1
    assert found[0]["points"] == 2
    assert found[0]["geometric_mean"] == pytest.approx(3.0)
    assert found[0]["slice"] == "1 thread"


def config_of(out: Path, **changes: Any) -> LinearBenchConfig:
    settings: dict[str, Any] = {
        "shapes": "64x32, 40x16",
        "rows": [1, 3],
        "sparsity": "0.75",
        "formats": "int8,dense,fp32-n16",
        "threads": 1,
        "rounds": 2,
        "pause_s": 0.0,
        "peers": "torch",
        "out": str(out),
    }
    return LinearBenchConfig(**settings | changes)


def test_whole_run_writes_every_sample(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    result = bench_linear(config_of(tmp_path / "new" / "folder"), progress=False)
    assert torch.get_num_threads() == before
    assert [file.name for file in result.files[:2]] == ["linear.json", "linear.txt"]
    assert all(file.is_file() for file in result.files)
    read = json.loads(result.files[0].read_text())
    assert read == json.loads(result.to_json())
    assert result.files[1].read_text() == text_of(result)
    limits, smallest, *layers = read["points"]
    assert "machine" in limits["case"]
    assert {e["kind"] for e in limits["engines"]} == {"rate"}
    assert (smallest["case"]["in"], smallest["case"]["out"]) == (16, 16)
    shapes = [(p["case"]["rows"], p["case"]["in"], p["case"]["out"]) for p in layers]
    assert shapes == [(1, 64, 32), (3, 64, 32), (1, 40, 16), (3, 40, 16)]
    assert read["settings"]["sparsity"] == "0.75"
    engines = {engine["name"]: engine for engine in layers[0]["engines"]}
    assert {"sparsekd int8 8:32", "sparsekd dense int8", "sparsekd fp32-n16 4:16"} <= set(engines)
    assert {"torch fp32", "torch dynamic int8"} <= set(engines)
    assert "torch bf16" not in engines
    ours = engines["sparsekd int8 8:32"]
    assert ours["error"] < 0.05
    assert ours["work"] == 64 * 32 // 4
    assert len(ours["samples_s"]) == 2 * 5
    assert ours["version"].startswith("sparsekd ")
    assert list((tmp_path / "new" / "folder").glob("*.jsonl")) == []


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, done = module._measure, []

    def stop_at_third(point: Any, *rest: Any) -> Point:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(point.layer.title(point.rows))
        return measure(point, *rest)

    config = config_of(tmp_path, formats="dense", peers="none")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_measure", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            bench_linear(config, progress=False)
        assert len(list(tmp_path.glob("linear-*.partial.jsonl"))) == 1
        done.append("so that it does not stop")
        result = bench_linear(config, progress=False)
    assert sorted(done) == sorted(
        [*(p.title for p in result.points[1:]), "so that it does not stop"]
    )
    assert not list(tmp_path.glob("*.jsonl"))
    assert len(result.points) == 6


def test_several_thread_counts_and_an_instruction_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    before = backend.isa()
    config = config_of(
        tmp_path, formats="dense", peers="openvino", rows=2, shapes="64x64", threads="2,1",
        isa="scalar", rounds=1,
    )  # fmt: skip
    result = bench_linear(config, progress=False)
    assert backend.isa() == before
    layers = [p for p in result.points if p.case.get("in") == 64]
    assert [p.case["threads"] for p in layers] == [2, 1]
    assert {p.case["isa"] for p in layers} == {"scalar"}
    names = {entry.name for p in layers for entry in p.entries if entry.kind != "rate"}
    assert names == {"sparsekd dense int8"}  # openvino does not obey
    assert [e.config["threads"] for p in layers for e in p.entries if e.ours] == [2, 1]


def test_a_forced_instruction_set_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # so that nothing of it outlives the test
    engine, best = torch.backends.quantized.engine, backend.isa()
    with forced_isa("scalar"):
        assert backend.isa() == "scalar"
        assert torch.backends.quantized.engine == "onednn"
    assert (torch.backends.quantized.engine, backend.isa()) == (engine, best)


def test_scaling_counts_long_calls_alone() -> None:
    two = [
        replace(p, case={**p.case, "threads": 2}, entries=tuple(faster(e) for e in p.entries))
        for p in (point(16, 1.0), point(1, 0.01))
    ]
    result = LinearBenchResult((point(16, 1.0), point(1, 0.01), *two), {}, WHERE)
    assert result.scaling() == [
        ("ours 4:32", 1, pytest.approx(1.25), pytest.approx(1.25)),
        ("ours dense", 1, pytest.approx(1.25), pytest.approx(1.25)),
    ]


def faster(one: Entry) -> Entry:
    return replace(one, samples=Samples(tuple(s / 1.25 for s in one.samples.seconds)))


def test_a_wrong_a_failing_and_a_missing_engine_are_named_and_not_timed() -> None:
    problem = LinearProblem.random(8, 4, 2, threads=1)

    def wrong(given: LinearProblem) -> Engine:
        return Engine("x 1", lambda: None, lambda index: torch.zeros(2, 4))

    def failing(given: LinearProblem) -> Engine:
        raise RuntimeError("no such instruction\nand more")

    def missing(given: LinearProblem) -> Engine:
        raise PeerMissingError("z: not installed")

    contenders = [
        torch_peers()[0],
        Contender("wrong", "dense fp32", wrong),
        Contender("failing", "dense int8", failing),
        Contender("missing", "dense int8", missing),
    ]
    found = run_linear(problem, contenders, QUICK)
    assert [e.name for e in found.entries] == ["torch fp32"]
    assert found.absent == {
        "wrong": "not timed: its output is wrong (relative error 1.0e+00)",
        "failing": "failed: RuntimeError: no such instruction",
        "missing": "z: not installed",
    }


def test_our_own_failure_is_not_hidden() -> None:
    def failing(given: LinearProblem) -> Engine:
        raise RuntimeError("ours is broken")

    problem = LinearProblem.random(8, 4, 2, threads=1)
    with pytest.raises(RuntimeError, match="ours is broken"):
        run_linear(problem, [Contender("ours", "sparse int8", failing, ours=True)], QUICK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shapes": "768"}, "a shape is <in>x<out> such as 768x3072, got '768'"),
        ({"shapes": "768x0"}, "out features must be a whole number of at least 1, got '0'"),
        ({"rows": "1,-2"}, "rows must be a whole number of at least 1, got '-2'"),
        ({"sparsity": "0.5,half"}, "sparsity must be numbers"),
        ({"sparsity": "0.9"}, "sparsity 0.9 is no n:32 pattern"),
        ({"sparsity": 0.99, "formats": "csr,int8"}, "sparsity 0.99 is no n:32 pattern"),
        ({"formats": "int4"}, "unknown format 'int4'; choose among int8, dense"),
        ({"formats": ""}, "at least one format"),
        ({"preset": "all"}, "unknown preset 'all'; choose among quick, "),
        ({"peers": "tvm"}, "unknown peer 'tvm'; choose among torch, onnxruntime, openvino, none"),
        ({"threads": 0}, "threads must be a whole number of at least 1, got '0'"),
        ({"rounds": -1}, "rounds >= 0"),
    ],
)
def test_bad_settings_are_refused_before_any_work(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        LinearBenchConfig(**wrong)


def test_an_unknown_instruction_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'avx99' is not here; choose among .*scalar"):
        bench_linear(config_of(tmp_path, isa="avx99"), progress=False)
