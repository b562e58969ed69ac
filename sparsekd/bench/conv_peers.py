"""Other engines' convolutions: fp32 of torch, ONNX Runtime and OpenVINO; OpenVINO's int8 node.

A graph of one convolution spends part of a call on turning NCHW into its own layout and back. A
network does that once, so OpenVINO's nodes are timed by its own clock as well (PERF_COUNT): the
convolution alone, without the reorders around it.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsekd.bench.conv_layers import ConvProblem
from sparsekd.bench.onnx_session import onnx_runtime_engine
from sparsekd.bench.peers import Engine, module_engine, require, version_of
from sparsekd.bench.runner import Contender
from sparsekd.benchmark import OwnClock
from sparsekd.numerics import quantize_weight

__all__ = ["conv_peers"]

_OPSET, _IR_VERSION = 17, 9
_NODES = ("Convolution", "GroupConvolution")


def conv_peers(package: str) -> list[Contender[ConvProblem]]:
    """The engines of a package: "torch", "onnxruntime" or "openvino"."""
    return {
        "torch": [
            Contender("torch fp32", "dense fp32", lambda p: _torch(p, nhwc=False)),
            Contender("torch fp32 channels_last", "dense fp32", lambda p: _torch(p, nhwc=True)),
        ],
        "onnxruntime": [Contender("ONNX Runtime fp32", "dense fp32", _onnx_runtime)],
        "openvino": [
            Contender("OpenVINO fp32", "dense fp32", lambda p: _openvino(p, node=False)),
            Contender("OpenVINO fp32 node", "dense fp32", lambda p: _openvino(p, node=True)),
            Contender("OpenVINO int8 node", "dense int8", _openvino_int8),
        ],
    }[package]


def _torch(problem: ConvProblem, *, nhwc: bool) -> Engine:
    conv: nn.Module = problem.conv
    if nhwc:
        conv = problem.once(
            "torch channels_last",
            lambda: _copy(problem.conv).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        )
    config = {"threads": problem.threads, "inputs": "channels_last" if nhwc else "NCHW"}
    inputs = problem.floats(nhwc=nhwc)
    return module_engine(conv, inputs, version=version_of("torch"), config=config)


def _copy(conv: nn.Conv2d) -> nn.Conv2d:
    import copy

    return copy.deepcopy(conv)


def _onnx_runtime(problem: ConvProblem) -> Engine:
    inputs = [(x,) for x in problem.floats(nhwc=False)]
    return onnx_runtime_engine(_fp32_graph(problem), inputs, _out_shape(problem), problem.threads)


def _openvino(problem: ConvProblem, *, node: bool) -> Engine:
    return _openvino_engine(problem, _fp32_graph(problem), problem.floats(nhwc=False), node=node)


def _openvino_int8(problem: ConvProblem) -> Engine:
    inputs = tuple(x.contiguous() for x in problem.inputs)  # NCHW: the reorder is not counted
    return _openvino_engine(problem, _int8_graph(problem), inputs, node=True)


def _openvino_engine(
    problem: ConvProblem, model: Any, inputs: tuple[Tensor, ...], *, node: bool
) -> Engine:
    ov = require("openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # else bf16 on CPUs that have it, called fp32
        "INFERENCE_NUM_THREADS": problem.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": node,
    }
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    out = torch.empty(_out_shape(problem), dtype=inputs[0].dtype)
    requests = [_request(ov, compiled, x, out) for x in inputs]
    executed = [
        f"{i['layerType'].astype(str)} {i['primitiveType'].astype(str)} "
        f"{i['outputPrecisions'].astype(str)}"
        for i in (n.get_rt_info() for n in compiled.get_runtime_model().get_ops())
    ]

    def output(index: int) -> Tensor:
        requests[index].infer(share_outputs=True)
        return out.clone()

    turns = itertools.cycle(requests)

    def run(_keeps_alive: object = (inputs, out)) -> float:
        request = next(turns)
        request.infer(share_outputs=True)
        return _node_seconds(request) if node else 0.0

    config = settings | {"executed nodes": executed}
    clock = OwnClock(run) if node else run
    return Engine(version_of("openvino"), clock, output, config)


def _request(ov: Any, compiled: Any, x: Tensor, y: Tensor) -> Any:
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(x.numpy(), shared_memory=True))
    request.set_output_tensor(ov.Tensor(y.numpy(), shared_memory=True))
    return request


def _node_seconds(request: Any) -> float:
    """Of the last call the convolution alone, measured in whole microseconds."""
    nodes = [info for info in request.get_profiling_info() if info.node_type in _NODES]
    if len(nodes) != 1:
        raise RuntimeError(f"OpenVINO ran {len(nodes)} convolutions for one")
    return float(nodes[0].real_time.total_seconds())


def _fp32_graph(problem: ConvProblem) -> Any:
    helper = require("onnx.helper", "onnx")
    assert problem.conv.bias is not None
    constants = {"w": problem.conv.weight.numpy(), "b": problem.conv.bias.numpy()}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **_attributes(problem))
    return _graph(problem, [node], constants, "FLOAT")


def _int8_graph(problem: ConvProblem) -> Any:
    """u8 in and out, s8 weights with a scale an output, ReLU, zero points 0: no edge in fp32."""
    helper = require("onnx.helper", "onnx")
    integers, scale = quantize_weight(problem.conv.weight)
    assert problem.conv.bias is not None
    constants = {
        "x_scale": np.array(problem.scale, np.float32),
        "y_scale": np.array(problem.out_scale, np.float32),
        "zero_u8": np.array(0, np.uint8),
        "w_s8": integers.numpy(),
        "w_scale": scale.numpy(),
        "w_zero": np.zeros(len(scale), np.int8),
        "b": problem.conv.bias.numpy(),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_scale", "zero_u8"], ["x_f32"]),
        helper.make_node("DequantizeLinear", ["w_s8", "w_scale", "w_zero"], ["w"], axis=0),
        helper.make_node("Conv", ["x_f32", "w", "b"], ["sum"], **_attributes(problem)),
        helper.make_node("Relu", ["sum"], ["positive"]),
        helper.make_node("QuantizeLinear", ["positive", "y_scale", "zero_u8"], ["y"]),
    ]
    return _graph(problem, nodes, constants, "UINT8")


def _attributes(problem: ConvProblem) -> dict[str, Any]:
    g = problem.layer.geometry
    top, bottom, left, right = g.padding
    return {
        "kernel_shape": g.kernel,
        "strides": g.stride,
        "dilations": g.dilation,
        "pads": (top, left, bottom, right),
        "group": g.groups,
    }


def _graph(problem: ConvProblem, nodes: list[Any], constants: dict[str, Any], kind: str) -> Any:
    helper = require("onnx.helper", "onnx")
    numpy_helper = require("onnx.numpy_helper", "onnx")
    dtype = getattr(require("onnx").TensorProto, kind)
    shape = tuple(problem.inputs[0].shape)
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, _out_shape(problem))],
        [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in constants.items()],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)


def _out_shape(problem: ConvProblem) -> tuple[int, ...]:
    batch = problem.inputs[0].shape[0]
    return (batch, problem.layer.geometry.channels[1], *problem.layer.out_size)
