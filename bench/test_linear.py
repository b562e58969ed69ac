"""One Linear layer on every engine; the same contenders as `sparsekd bench linear`."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from sparsekd.bench.linear_problem import LinearProblem, output_error
from sparsekd.bench.onnx_runtime import onnx_runtime_peers
from sparsekd.bench.openvino_runtime import openvino_peers
from sparsekd.bench.ours import our_contenders
from sparsekd.bench.peers import PeerMissingError
from sparsekd.bench.runner import Contender
from sparsekd.bench.torch_runtime import torch_peers

THREADS = 2
PEERS = [
    *our_contenders(["int8", "dense", "fp32-n16"], [0.5, 0.75, 0.875]),
    *torch_peers(),
    *onnx_runtime_peers(),
    *openvino_peers(),
]
PROBLEMS = [(1, 768, 3072), (16, 768, 3072), (128, 768, 3072), (128, 3072, 768), (1, 4096, 4096)]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name.replace(" ", "_"))
@pytest.mark.parametrize("size", PROBLEMS, ids=lambda size: "{}x{}to{}".format(*size))
def test_linear(
    benchmark: BenchmarkFixture, size: tuple[int, int, int], peer: Contender[LinearProblem]
) -> None:
    rows, inputs, outputs = size
    problem = LinearProblem.random(inputs, outputs, rows, threads=THREADS)
    try:
        engine = peer.build(problem)
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    benchmark.group = f"{rows} x {inputs} -> {outputs}"
    benchmark.extra_info.update(
        kind=peer.kind,
        version=engine.version,
        config=dict(engine.config),
        error=output_error(engine, problem),
    )
    with torch.inference_mode():
        benchmark(engine.run)
