"""One Linear layer as an ONNX graph, in fp32 and in int8 with Q/DQ nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.peers import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["linear_fp32", "linear_qdq", "set_rows"]

_OPSET = 17  # the newest that every peer of the last years reads
_IR_VERSION = 9


def linear_fp32(problem: LinearProblem) -> Any:
    """``y = x @ W + b`` in fp32, as an ``onnx.ModelProto``.

    Raises:
        PeerMissingError: onnx is not installed.
    """
    helper = require("onnx.helper", "onnx")
    gemm = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])
    return _model(
        problem, [gemm], {"weight": _array(problem.weight.T), "bias": _array(problem.bias)}
    )


def linear_qdq(problem: LinearProblem) -> Any:
    """The same with int8 weights (per output) and static u8 activations, fp32 in and out.

    The activation's range is that of the problem's inputs, the best calibration there is. The bias
    is int32 on the products' grid: with a float bias ONNX Runtime falls back to an fp32 Gemm.

    Raises:
        PeerMissingError: onnx is not installed.
    """
    helper = require("onnx.helper", "onnx")
    low = min(0.0, *(float(x.min()) for x in problem.inputs))
    high = max(0.0, *(float(x.max()) for x in problem.inputs))
    scale = (high - low) / 255 or 1.0
    weight_scale = problem.weight.abs().amax(1).clamp(min=1e-30) / 127
    quantized = (problem.weight / weight_scale[:, None]).round().clamp(-127, 127)
    bias_scale = scale * weight_scale
    constants = {
        "x_scale": np.array(scale, np.float32),
        "x_zero": np.array(round(-low / scale), np.uint8),
        "w_int8": _array(quantized.T).astype(np.int8),
        "w_scale": _array(weight_scale),
        "w_zero": np.zeros(len(weight_scale), np.int8),
        "b_int32": _array((problem.bias.double() / bias_scale).round()).astype(np.int32),
        "b_scale": _array(bias_scale),
        "b_zero": np.zeros(len(weight_scale), np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_u8"]),
        helper.make_node("DequantizeLinear", ["x_u8", "x_scale", "x_zero"], ["x_back"]),
        helper.make_node("DequantizeLinear", ["w_int8", "w_scale", "w_zero"], ["weight"], axis=1),
        helper.make_node("DequantizeLinear", ["b_int32", "b_scale", "b_zero"], ["bias"], axis=0),
        helper.make_node("Gemm", ["x_back", "weight", "bias"], ["y"]),
    ]
    return _model(problem, nodes, constants)


def set_rows(model: Any, rows: int) -> None:
    """Give a Linear's graph another number of rows, in place."""
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = rows
    del model.graph.value_info[:]


def _model(problem: LinearProblem, nodes: list[Any], constants: dict[str, Any]) -> Any:
    helper = require("onnx.helper", "onnx")
    numpy_helper = require("onnx.numpy_helper", "onnx")
    float_type = require("onnx", "onnx").TensorProto.FLOAT
    rows = problem.inputs[0].shape[0]
    outputs, inputs = problem.weight.shape
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", float_type, [rows, inputs])],
        [helper.make_tensor_value_info("y", float_type, [rows, outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)
