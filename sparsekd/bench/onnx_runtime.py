"""ONNX Runtime as a peer: fp32, dynamic int8 by its own quantizer, static int8; by IOBinding."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.onnx_models import linear_fp32, linear_qdq, set_rows
from sparsekd.bench.peers import Engine, require, rotate, version_of
from sparsekd.bench.runner import Contender

__all__ = ["onnx_runtime_peers"]


def onnx_runtime_peers() -> list[Contender[LinearProblem]]:
    """ONNX Runtime in fp32, dynamic int8 and static int8."""
    return [
        Contender("ONNX Runtime fp32", "dense fp32", _fp32),
        Contender("ONNX Runtime int8 dynamic", "dense int8", _int8_dynamic),
        Contender("ONNX Runtime int8 static", "dense int8", _int8_static),
    ]


def _fp32(problem: LinearProblem) -> Engine:
    return _engine(linear_fp32(problem), problem)


def _int8_static(problem: LinearProblem) -> Engine:
    return _engine(linear_qdq(problem), problem)


def _int8_dynamic(problem: LinearProblem) -> Engine:
    model = problem.once("ONNX int8 dynamic", lambda: _quantized(problem))
    set_rows(model, problem.rows)
    return _engine(model, problem)


def _quantized(problem: LinearProblem) -> Any:
    """The graph as ONNX Runtime's own dynamic quantizer makes it."""
    require("onnxruntime")
    onnx = require("onnx")
    quantization = require("onnxruntime.quantization", "onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(linear_fp32(problem), source)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it warns, on the root logger, about shape inference
        try:
            quantization.quantize_dynamic(
                source, target, per_channel=True, weight_type=quantization.QuantType.QInt8
            )
        finally:
            logging.root.setLevel(level)
        return onnx.load(target)


def _engine(model: Any, problem: LinearProblem) -> Engine:
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = problem.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        nodes = require("onnx").load(options.optimized_model_filepath).graph.node
        executed = Counter(node.op_type for node in nodes)
    calls = [_bound_call(session, x, len(problem.bias)) for x in problem.inputs]
    config = {
        "intra_op_num_threads": problem.threads,
        "inter_op_num_threads": 1,
        "io": "IOBinding on preallocated buffers",
        "executed nodes": dict(executed),
    }
    return Engine(
        version_of("onnxruntime"), rotate(calls), lambda index: calls[index]().clone(), config
    )


def _bound_call(session: Any, x: Tensor, out_features: int) -> Callable[[], Tensor]:
    """One call from this buffer into one of its own, bound once, so that nothing is copied."""
    y = torch.empty(x.shape[0], out_features)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, "float32", tuple(x.shape), x.data_ptr())
    binding.bind_output("y", "cpu", 0, "float32", tuple(y.shape), y.data_ptr())

    def call(_keeps_alive: Tensor = x) -> Tensor:
        session.run_with_iobinding(binding)
        return y

    return call
