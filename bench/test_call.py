"""What a call costs where the layer is small: modules, their bare functions, and the other engines.

docs/kernels.md, "The call", takes the fixed cost apart.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.onnx_runtime import onnx_runtime_peers
from sparsekd.bench.openvino_runtime import openvino_peers
from sparsekd.bench.ours import our_contenders
from sparsekd.bench.peers import PeerMissingError
from sparsekd.bench.runner import Contender
from sparsekd.bench.torch_runtime import torch_peers
from sparsekd.nn import Conv2d, Linear
from sparsekd.spec import Int8

THREADS = 2
SIZES = [(16, 16), (64, 64), (384, 1536), (768, 768)]
PEERS = [
    *our_contenders(["int8", "dense"], [0.5, 0.875]),
    *torch_peers(),
    *onnx_runtime_peers(),
    *openvino_peers(),
]


def bare(name: str, problem: LinearProblem) -> Callable[[Tensor], Tensor]:
    """Without ``nn.Module.__call__``."""
    layer = problem.linear()
    if name == "F.linear":
        weight, bias = layer.weight, layer.bias
        return lambda x: F.linear(x, weight, bias)
    return Linear.from_float(layer, scheme=Int8(), kernel="dense").forward


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name.replace(" ", "_"))
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "1x{}to{}".format(*size))
def test_engine(
    benchmark: BenchmarkFixture, size: tuple[int, int], peer: Contender[LinearProblem]
) -> None:
    problem = LinearProblem.random(*size, 1, threads=THREADS)
    try:
        engine = peer.build(problem)
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    benchmark.group = "1 x {} -> {}".format(*size)
    benchmark.extra_info.update(kind=peer.kind, version=engine.version, config=dict(engine.config))
    with torch.inference_mode():
        benchmark(engine.run)


@pytest.mark.parametrize("name", ["F.linear", "forward"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "1x{}to{}".format(*size))
def test_bare_function(benchmark: BenchmarkFixture, size: tuple[int, int], name: str) -> None:
    problem = LinearProblem.random(*size, 1, threads=THREADS)
    call, x = bare(name, problem), problem.inputs[0]
    benchmark.group = "1 x {} -> {}".format(*size)
    with torch.inference_mode():
        benchmark(call, x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", ["torch", "sparsekd"])
def test_small_convolution(
    benchmark: BenchmarkFixture, name: str, layout: torch.memory_format
) -> None:
    layer: nn.Module = nn.Conv2d(16, 16, 3, padding=1).eval().requires_grad_(False)
    if name == "sparsekd":
        assert isinstance(layer, nn.Conv2d)
        layer = Conv2d.from_float(layer, scheme=Int8(), kernel="dense")
    x = torch.randn(1, 16, 4, 4).to(memory_format=layout)
    benchmark.group = f"convolution, 16 -> 16 channels, 3 x 3, 4 x 4 pixels, {layout}"
    with torch.inference_mode():
        benchmark(layer, x)
