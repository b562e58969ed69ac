"""torch itself as a peer: fp32, bf16 and its dynamic int8."""

from __future__ import annotations

import torch
from torch import nn

from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.peers import Engine, dynamic_int8, module_engine, version_of
from sparsekd.bench.runner import Contender

__all__ = ["torch_peers"]


def torch_peers() -> list[Contender[LinearProblem]]:
    """torch in fp32, bf16 and dynamic int8."""
    return [
        Contender("torch fp32", "dense fp32", _fp32),
        Contender("torch bf16", "dense bf16", _bf16),
        Contender("torch dynamic int8", "dense int8", _dynamic_int8),
    ]


def _fp32(problem: LinearProblem) -> Engine:
    config = {"threads": problem.threads}
    return module_engine(
        problem.linear(), problem.inputs, version=version_of("torch"), config=config
    )


def _bf16(problem: LinearProblem) -> Engine:
    inputs = tuple(x.bfloat16() for x in problem.inputs)
    config = {"threads": problem.threads, "inputs and outputs": "bf16, converted outside the call"}
    return module_engine(
        problem.linear().bfloat16(), inputs, version=version_of("torch"), config=config
    )


def _dynamic_int8(problem: LinearProblem) -> Engine:
    layer = problem.once("torch int8", lambda: dynamic_int8(nn.Sequential(problem.linear())))
    config = {"threads": problem.threads, "backend": str(torch.backends.quantized.engine)}
    return module_engine(layer, problem.inputs, version=version_of("torch"), config=config)
