"""The engine on each instruction set, and the bar that each is at least twice as fast as scalar."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from sparsekd import backend
from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.ours import our_contenders
from sparsekd.bench.runner import Contender
from sparsekd.benchmark import measure

OURS = our_contenders(["int8", "dense"], [0.75])
VECTOR_ISAS = [name for name in backend.available_isas() if name != "scalar"]


@pytest.fixture
def problem() -> LinearProblem:
    return LinearProblem.random(768, 3072, 128, threads=2)


@pytest.fixture(autouse=True)
def chosen_isa_restored() -> Iterator[None]:
    yield
    backend.set_isa(None)


@pytest.mark.parametrize("peer", OURS, ids=lambda peer: peer.name.replace(" ", "_"))
@pytest.mark.parametrize("isa", backend.available_isas())
def test_isa(
    benchmark: BenchmarkFixture, isa: str, peer: Contender[LinearProblem], problem: LinearProblem
) -> None:
    backend.set_isa(isa)
    engine = peer.build(problem)
    benchmark.group = f"128 x 768 -> 3072, {peer.name}"
    with torch.inference_mode():
        benchmark(engine.run)


@pytest.mark.parametrize("peer", OURS, ids=lambda peer: peer.name.replace(" ", "_"))
@pytest.mark.parametrize("isa", VECTOR_ISAS)
def test_at_least_twice_as_fast_as_scalar(
    isa: str, peer: Contender[LinearProblem], problem: LinearProblem
) -> None:
    engine = peer.build(problem)

    def on(name: str) -> Callable[[], object]:
        def run() -> object:
            backend.set_isa(name)  # under a microsecond beside calls of a tenth of a millisecond
            return engine.run()

        return run

    with torch.inference_mode():
        times = measure({name: on(name) for name in (isa, "scalar")}, rounds=5)
    ratio = times["scalar"].median / times[isa].median
    assert ratio >= 2.0, f"{isa} is {ratio:.2f} times as fast as scalar"
