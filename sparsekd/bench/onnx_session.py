"""A graph in ONNX Runtime, called through IOBinding on buffers that are there already."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsekd.bench.definitions import Arguments
from sparsekd.bench.peers import Engine, require, rotate, version_of

__all__ = ["onnx_runtime_engine"]


def onnx_runtime_engine(
    model: Any, inputs: Iterable[Arguments], shape: Sequence[int], threads: int
) -> Engine:
    """An engine that runs a graph on each of the inputs in turn.

    Args:
        model: an ``onnx.ModelProto`` with one output, "y".
        inputs: the arguments of each call, in the order of the graph's inputs.
        shape: of the output, which is fp32.
    """
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        nodes = require("onnx").load(options.optimized_model_filepath).graph.node
        executed = Counter(node.op_type for node in nodes)
    calls = [_bound_call(session, arguments, shape) for arguments in inputs]
    config = {
        "intra_op_num_threads": threads,
        "inter_op_num_threads": 1,
        "io": "IOBinding on preallocated buffers",
        "executed nodes": dict(executed),
    }
    return Engine(
        version_of("onnxruntime"), rotate(calls), lambda index: calls[index]().clone(), config
    )


def _bound_call(session: Any, arguments: Arguments, shape: Sequence[int]) -> Callable[[], Tensor]:
    """One call from these buffers into one of its own, bound once, so that nothing is copied."""
    y = torch.empty(tuple(shape))
    binding = session.io_binding()
    for entry, x in zip(session.get_inputs(), arguments, strict=True):
        kind = str(x.dtype).removeprefix("torch.")
        binding.bind_input(entry.name, "cpu", 0, kind, tuple(x.shape), x.data_ptr())
    binding.bind_output("y", "cpu", 0, "float32", tuple(shape), y.data_ptr())

    def call(_keeps_alive: Arguments = arguments) -> Tensor:
        session.run_with_iobinding(binding)
        return y

    return call
