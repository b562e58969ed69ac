"""OpenVINO as a peer: fp32 and, from the graph with Q/DQ nodes, int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.onnx_models import linear_fp32, linear_qdq
from sparsekd.bench.peers import Engine, require, rotate, version_of
from sparsekd.bench.runner import Contender

__all__ = ["openvino_peers"]


def openvino_peers() -> list[Contender[LinearProblem]]:
    """OpenVINO in fp32 and int8."""
    return [
        Contender(
            "OpenVINO fp32", "dense fp32", lambda problem: _engine(linear_fp32(problem), problem)
        ),
        Contender(
            "OpenVINO int8", "dense int8", lambda problem: _engine(linear_qdq(problem), problem)
        ),
    ]


def _engine(model: Any, problem: LinearProblem) -> Engine:
    ov = require("openvino")
    # Without the hint OpenVINO computes in bf16 on CPUs that have it, and calls it fp32.
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": problem.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    calls = [_bound_call(ov, compiled, x, len(problem.bias)) for x in problem.inputs]
    executed = [
        f"{info['layerType'].astype(str)} {info['runtimePrecision'].astype(str)}"
        for info in (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
    ]
    return Engine(
        version_of("openvino"),
        rotate(calls),
        lambda index: calls[index]().clone(),
        settings | {"executed nodes": executed},
    )


def _bound_call(ov: Any, compiled: Any, x: Tensor, out_features: int) -> Callable[[], Tensor]:
    """One call from this buffer into one of its own, through a request that is bound to both."""
    y = torch.empty(x.shape[0], out_features)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(x.numpy(), shared_memory=True))
    request.set_output_tensor(ov.Tensor(y.numpy(), shared_memory=True))

    def call(_keeps_alive: Tensor = x) -> Tensor:
        request.infer(share_outputs=True)
        return y

    return call
