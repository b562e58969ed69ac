"""ONNX Runtime as a peer: fp32, dynamic int8 by its own quantizer, static int8; by IOBinding."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.onnx_models import linear_fp32, linear_qdq, set_rows
from sparsekd.bench.onnx_session import onnx_runtime_engine
from sparsekd.bench.peers import Engine, require
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
    shape = (problem.rows, len(problem.bias))
    return onnx_runtime_engine(model, [(x,) for x in problem.inputs], shape, problem.threads)
