"""Whole models on other engines: torch itself, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import copy
import itertools
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsekd.bench.definitions import Arguments
from sparsekd.bench.onnx_session import onnx_runtime_engine
from sparsekd.bench.peers import Engine, dynamic_int8, require, rotate, version_of
from sparsekd.bench.record import Kind
from sparsekd.bench.runner import Contender

__all__ = ["NetworkProblem", "channels_last", "module_contender", "network_peers"]

_OPSET = 17


@dataclass(frozen=True)
class NetworkProblem:
    """A float model and the inputs it is called on.

    Attributes:
        model: in eval mode.
        inputs: the arguments of several calls, all of the same shapes; static int8 engines take
            the ranges of their activations from them, the best calibration there is.
        dynamic: activations are quantized at run time where an engine can.
        exported: the form of the model that goes into ONNX, where it is another.
    """

    model: nn.Module
    inputs: tuple[Arguments, ...]
    threads: int
    dynamic: bool = False
    exported: nn.Module | None = None


def network_peers(*, images: bool, dynamic: bool) -> list[Contender[NetworkProblem]]:
    """All other engines.

    Args:
        images: torch in both memory formats.
        dynamic: dynamic int8 as well as static.
    """
    peers = [Contender("torch fp32", "dense fp32", _torch(lambda model: model))]
    if images:
        peers.append(Contender("torch fp32 channels_last", "dense fp32", _torch_channels_last))
    if dynamic:
        peers.append(Contender("torch int8 dynamic", "dense int8", _torch(dynamic_int8)))
    peers.append(Contender("ONNX Runtime fp32", "dense fp32", _onnx_runtime(_exported)))
    if dynamic:
        peers.append(Contender("ONNX Runtime int8 dynamic", "dense int8", _onnx_runtime(_dynamic)))
    return [
        *peers,
        Contender("ONNX Runtime int8 static", "dense int8", _onnx_runtime(_static)),
        Contender("OpenVINO fp32", "dense fp32", _openvino(_exported)),
        Contender("OpenVINO int8 static", "dense int8", _openvino(_static)),
    ]


def module_contender(
    name: str,
    kind: Kind,
    model: nn.Module,
    *,
    package: str,
    config: dict[str, Any],
    nhwc: bool = False,
    ours: bool = False,
    family: str = "",
    sparsity: float | None = None,
    reference: nn.Module | None = None,
) -> Contender[NetworkProblem]:
    """A contender that is a ready torch module.

    Args:
        nhwc: it is given channels_last inputs.
        reference: the float model with the weights that it computes with, where they are not the
            problem's own (because they were pruned).
    """

    def build(problem: NetworkProblem) -> Engine:
        inputs = problem.inputs
        if nhwc:
            inputs = tuple(tuple(map(channels_last, arguments)) for arguments in inputs)
        turns = itertools.cycle(inputs)

        def output(index: int) -> Tensor:
            with torch.inference_mode():
                result: Tensor = model(*inputs[index])
                return result

        settings = {"threads": problem.threads, **config}
        run = partial(_next_call, model, turns)
        return Engine(version_of(package), run, output, settings, model=reference)

    return Contender(name, kind, build, ours, family, sparsity)


def _next_call(model: nn.Module, turns: Iterator[Arguments]) -> object:
    return model(*next(turns))


def channels_last(x: Tensor) -> Tensor:
    """A batch of images in channels_last; anything else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _torch(prepare: Callable[[nn.Module], nn.Module]) -> Callable[[NetworkProblem], Engine]:
    def build(problem: NetworkProblem) -> Engine:
        ready = prepare(problem.model)
        return module_contender("", "dense fp32", ready, package="torch", config={}).build(problem)

    return build


def _torch_channels_last(problem: NetworkProblem) -> Engine:
    model = copy.deepcopy(problem.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    contender = module_contender("", "dense fp32", model, package="torch", config={}, nhwc=True)
    return contender.build(problem)


_Graph = Callable[[NetworkProblem], Any]


def _exported(problem: NetworkProblem) -> Any:
    """The model as an ``onnx.ModelProto`` of fixed shapes, inputs x0, x1, ... and output y."""
    onnx = require("onnx")
    names = [f"x{i}" for i in range(len(problem.inputs[0]))]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        file = Path(folder, "model.onnx")
        warnings.simplefilter("ignore")  # that it is the older exporter, and what it traces over
        # The newer exporter needs one more package, and gives the same graph for these models.
        torch.onnx.export(
            problem.exported or problem.model,
            problem.inputs[0],
            file,
            dynamo=False,
            opset_version=_OPSET,
            input_names=names,
            output_names=["y"],
        )
        return onnx.load(file)


def _dynamic(problem: NetworkProblem) -> Any:
    quantization = require("onnxruntime.quantization", "onnxruntime")

    def quantize(source: Path, target: Path) -> None:
        quantization.quantize_dynamic(
            source, target, per_channel=True, weight_type=quantization.QuantType.QInt8
        )

    return _quantized(problem, quantize)


def _static(problem: NetworkProblem) -> Any:
    quantization = require("onnxruntime.quantization", "onnxruntime")
    batches = iter(problem.inputs)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, Any] | None:
            arguments = next(batches, None)
            if arguments is None:
                return None
            return {f"x{i}": x.numpy() for i, x in enumerate(arguments)}

    def quantize(source: Path, target: Path) -> None:
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # An encoder's additions and tables stay fp32, as in the dynamic form.
            op_types_to_quantize=["MatMul"] if problem.dynamic else None,
        )

    return _quantized(problem, quantize)


def _quantized(problem: NetworkProblem, quantize: Callable[[Path, Path], None]) -> Any:
    """The exported model through ONNX Runtime's preparation and one of its quantizers."""
    onnx = require("onnx")
    prepare = require("onnxruntime.quantization.shape_inference", "onnxruntime").quant_pre_process
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # both talk on the root logger
    try:
        with tempfile.TemporaryDirectory() as folder:
            exported, ready, target = (Path(folder, f"{n}.onnx") for n in ("a", "b", "c"))
            onnx.save(_exported(problem), exported)
            prepare(exported, ready, skip_symbolic_shape=True)
            quantize(ready, target)
            return onnx.load(target)
    finally:
        logging.root.setLevel(level)


def _onnx_runtime(graph: _Graph) -> Callable[[NetworkProblem], Engine]:
    def build(problem: NetworkProblem) -> Engine:
        shape = _output_shape(problem)
        return onnx_runtime_engine(graph(problem), problem.inputs, shape, problem.threads)

    return build


def _openvino(graph: _Graph) -> Callable[[NetworkProblem], Engine]:
    def build(problem: NetworkProblem) -> Engine:
        ov = require("openvino")
        # Without the hint OpenVINO computes in bf16 on CPUs that have it, and calls it fp32.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": problem.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = ov.Core()
        model = core.read_model(graph(problem).SerializeToString())
        compiled = core.compile_model(model, "CPU", settings)
        shape = _output_shape(problem)
        calls = [_openvino_call(ov, compiled, arguments, shape) for arguments in problem.inputs]
        executed = Counter(
            f"{info['layerType'].astype(str)} {info['runtimePrecision'].astype(str)}"
            for info in (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
        )
        config = settings | {"executed nodes": dict(executed)}
        return Engine(
            version_of("openvino"), rotate(calls), lambda index: calls[index]().clone(), config
        )

    return build


def _openvino_call(
    ov: Any, compiled: Any, arguments: Arguments, shape: torch.Size
) -> Callable[[], Tensor]:
    """One call from these buffers into one of its own, through a request that is bound to them."""
    y = torch.empty(shape)
    request = compiled.create_infer_request()
    for index, x in enumerate(arguments):
        request.set_input_tensor(index, ov.Tensor(x.numpy(), shared_memory=True))
    request.set_output_tensor(ov.Tensor(y.numpy(), shared_memory=True))

    def call(_keeps_alive: Arguments = arguments) -> Tensor:
        request.infer(share_outputs=True)
        return y

    return call


def _output_shape(problem: NetworkProblem) -> torch.Size:
    with torch.inference_mode():
        result: Tensor = problem.model(*problem.inputs[0])
    return result.shape
