"""The measuring protocol, its table, the environment. No test asserts how long something took."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from sparsekd.benchmark import BenchmarkRow, BenchmarkTable, Samples, benchmark, measure
from sparsekd.environment import busy_note, environment

QUICK: dict[str, Any] = {"rounds": 2, "calls": 4, "pause_s": 0.0, "min_block_s": 0.0}


def table_of(*medians: float) -> BenchmarkTable:
    names = ["torch", "engine", "other"]
    rows = [
        BenchmarkRow(name, "batch 1", Samples((m,)), medians[0] / m)
        for name, m in zip(names, medians, strict=False)
    ]
    return BenchmarkTable(tuple(rows), {}, {})


def test_samples_interpolate_quantiles() -> None:
    samples = Samples(tuple(float(i) for i in (5, 1, 2, 4, 3)))
    assert samples.median == 3.0
    assert samples.p10 == pytest.approx(1.4)
    assert samples.p90 == pytest.approx(4.6)
    assert samples.quantile(0) == 1.0
    assert samples.quantile(1) == 5.0
    assert samples.to_dict()["samples_s"] == [5.0, 1.0, 2.0, 4.0, 3.0]


def test_samples_refuse_nothing() -> None:
    with pytest.raises(ValueError, match="at least one time"):
        Samples(())


def test_measure_rotates_engines_and_drops_the_first_half_of_each_block() -> None:
    log: list[str] = []
    engines = {name: (lambda name=name: log.append(name)) for name in "abc"}
    times = measure(engines, rounds=3, calls=6, pause_s=0.0, min_block_s=0.0)
    assert {name: len(s.seconds) for name, s in times.items()} == {"a": 9, "b": 9, "c": 9}
    blocks = "".join(log)[3 * 4 :]  # behind the four warm-up calls of each
    assert blocks == "".join(name * 6 for name in "abc" + "bca" + "cab")


def test_a_timing_of_a_short_call_covers_several() -> None:
    count = 0

    def run() -> None:
        nonlocal count
        count += 1

    measure({"empty": run}, rounds=1, calls=2, pause_s=0.0, min_block_s=1e-3)
    assert count > 100


def test_measure_restores_the_garbage_collector_when_an_engine_fails() -> None:
    import gc

    def fail() -> None:
        raise RuntimeError("broken engine")

    with pytest.raises(RuntimeError, match="broken engine"):
        measure({"broken": fail}, **QUICK)
    assert gc.isenabled()


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"calls": 1}, {"pause_s": -1.0}, {"min_block_s": -1.0}]
)
def test_measure_refuses_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="measure needs rounds >= 1"):
        measure({"engine": lambda: None}, **{**QUICK, **wrong})


def test_measure_and_benchmark_refuse_to_measure_nothing() -> None:
    with pytest.raises(ValueError, match="at least one engine"):
        measure({})
    with pytest.raises(ValueError, match="at least one model"):
        benchmark({}, torch.zeros(1, 2))
    for empty in ([], {}):
        with pytest.raises(ValueError, match="at least one"):
            benchmark({"model": nn.Identity()}, empty)
    with pytest.raises(ValueError, match="threads >= 1"):
        benchmark({"model": nn.Identity()}, torch.zeros(1), threads=0)


class Spy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Dropout()
        self.calls: list[tuple[int, bool, bool, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(
            (
                x.data_ptr(),
                self.training or self.part.training,
                torch.is_inference_mode_enabled(),
                torch.get_num_threads(),
            )
        )
        return x


def test_benchmark_runs_in_eval_and_inference_mode_and_restores() -> None:
    spy, before = Spy(), torch.get_num_threads()
    spy.part.eval()  # a submodule whose mode differs from its parent's
    benchmark({"spy": spy}, torch.zeros(2, 3), threads=1, **QUICK)
    assert spy.training
    assert not spy.part.training
    assert torch.get_num_threads() == before
    assert {call[1:] for call in spy.calls} == {(False, True, 1)}


def test_benchmark_reads_several_buffers_even_of_one_input() -> None:
    spy = Spy()
    benchmark({"spy": spy}, torch.zeros(2, 3), **QUICK)
    assert len({call[0] for call in spy.calls}) == 4
    spy = Spy()
    inputs = [torch.zeros(2, 3), torch.ones(2, 3)]
    benchmark({"spy": spy}, inputs, **QUICK)
    assert {call[0] for call in spy.calls} == {x.data_ptr() for x in inputs}


def test_benchmark_takes_argument_tuples_and_named_cases() -> None:
    cases = {"small": (torch.zeros(1, 2), 3), "large": (torch.zeros(4, 2), 3)}
    table = benchmark({"mul": torch.mul, "add": torch.add}, cases, **QUICK)
    order = [(row.case, row.model) for row in table.rows]
    assert order == [("small", "mul"), ("small", "add"), ("large", "mul"), ("large", "add")]
    assert table.row("mul", "large").ratio == 1.0
    assert table.row("add").case == "small"
    with pytest.raises(KeyError, match="no row for model 'sub'"):
        table.row("sub")


def test_every_loss_is_marked_and_no_gain_is() -> None:
    table = table_of(1e-3, 0.5e-3, 1.001e-3)
    lines = str(table).splitlines()
    assert lines[2].endswith("1.00x")
    assert lines[3].endswith("2.00x")
    assert lines[4].endswith("0.99x !")  # never rounded up to 1.00
    assert lines[-1] == "ratio: time of torch over time of the model; ! slower"
    assert "!" not in str(table_of(1e-3, 0.5e-3))


def test_rich_shows_the_same_cells() -> None:
    stream = io.StringIO()
    Console(file=stream, width=100, no_color=True).print(table_of(1e-3, 2e-3))
    assert "0.50x !" in stream.getvalue()
    assert "1.00..1.00" in stream.getvalue()


def test_json_holds_every_sample_and_the_environment(tmp_path: Path) -> None:
    table = benchmark({"id": nn.Identity()}, torch.zeros(1, 2), **QUICK)
    text = table.to_json(tmp_path / "table.json")
    read = json.loads((tmp_path / "table.json").read_text())
    assert read == json.loads(text) == table.to_dict()
    assert len(read["rows"][0]["samples_s"]) == 2 * 2
    assert read["rows"][0]["case"] == "1x2"
    assert read["environment"]["versions"]["torch"] == torch.__version__
    assert read["settings"]["rounds"] == 2


def test_environment_says_where_but_not_whose() -> None:
    where = environment()
    assert where["cores"] >= 1
    assert where["threads"] == torch.get_num_threads()
    assert where["cpu"]
    assert set(where["versions"]) == {"python", "torch", "numpy", "sparsekd"}
    text = json.dumps(where)
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text


def test_a_busy_machine_is_told() -> None:
    assert busy_note({"load": 2.1, "cores": 2}) is None  # the threads of the run itself
    assert busy_note({"load": None, "cores": 2}) is None
    assert busy_note({}) is None
    busy = {"load": 6.5, "cores": 2}
    table = BenchmarkTable(table_of(1e-3).rows, {}, busy)
    assert str(table).endswith("the machine was busy (load 6.5 on 2 cores): do not quote the times")
