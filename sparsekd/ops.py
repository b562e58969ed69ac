"""The engine's operations on tensors: registered with torch, and called directly when eager.

``torch.ops.sparsekd.linear_windowed_s8`` and ``linear_dense_s8`` are what ``torch.compile`` and
``torch.export`` see. In eager mode the dispatcher would cost more than a small layer takes, so a
plain CPU tensor goes to the compiled handle directly (:func:`can_run_directly`, :func:`run`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sparsekd import backend

if TYPE_CHECKING:
    from sparsekd._native import LinearS8

__all__ = ["CachedLinear", "can_run_directly", "linear_op", "run"]

_is_compiling = torch.compiler.is_compiling
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_functorch_layers = torch._C._functorch.peek_interpreter_stack
_tracing_state = torch._C._get_tracing_state


def can_run_directly(x: Tensor) -> bool:
    """True when nothing between Python and the kernel has to see the call.

    That is: a plain CPU tensor, not compiling or tracing, no dispatch or function mode, no vmap.
    """
    return (
        not _is_compiling()
        and type(x) is Tensor
        and x.is_cpu
        and _dispatch_modes() == 0
        and _function_modes() == 0
        and _functorch_layers() is None
        and _tracing_state() is None
    )


def run(handle: LinearS8, x: Tensor) -> Tensor:
    """y = linear(x) for x fp32 [..., in_features] on the CPU; y fp32 [..., out_features]."""
    *leading, inputs = x.shape
    if not x.is_contiguous():
        x = x.contiguous()
    y = x.new_empty(*leading, handle.outputs)  # spread: a tuple costs 0.35 us more to parse
    rows = x.numel() // inputs if inputs else math.prod(leading)
    handle.forward(x.data_ptr(), rows, y.data_ptr(), torch.get_num_threads())
    return y


class CachedLinear:
    """A compiled handle together with the tensors that it was made from.

    The handle holds copies, so it is stale as soon as one of the tensors is replaced or written
    to. Inference tensors have no version counter: a write to one is not noticed.
    """

    __slots__ = ("_counted", "_tensors", "_versions", "handle")

    def __init__(self, handle: LinearS8, tensors: Iterable[Tensor | None]) -> None:
        self.handle = handle
        self._tensors = tuple(tensors)
        self._counted = tuple(t for t in self._tensors if t is not None and not t.is_inference())
        self._versions = [t._version for t in self._counted]

    def is_current(self, tensors: Iterable[Tensor | None]) -> bool:
        """True when these very tensors, unchanged, are what the handle was made from."""
        return (
            all(map(operator.is_, self._tensors, tensors))
            and [t._version for t in self._counted] == self._versions
        )


# Handles of the registered ops: the weight's first tensor -> settings -> (its version, handle). The
# value must not hold its own weak key, or it would live forever; hence the version beside it.
_cache: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_library = torch.library.Library("sparsekd", "DEF")  # type: ignore[no-untyped-call]


def linear_op(kernel: str) -> Any:
    """The registered op of an int8 kernel."""
    return getattr(torch.ops.sparsekd, f"linear_{kernel}_s8").default


def _check_input(x: Tensor, inputs: int) -> None:
    if x.dtype is not torch.float32:
        raise TypeError(f"sparsekd linear: input of dtype {x.dtype}, expected torch.float32")
    if x.dim() == 0 or x.shape[-1] != inputs:
        raise ValueError(
            f"sparsekd linear: input of shape {tuple(x.shape)}, expected (..., {inputs})"
        )


def _linear(
    kernel: str,
    x: Tensor,
    packed: Mapping[str, Tensor],
    scale: Tensor,
    bias: Tensor | None,
    input_scale: Tensor | None,
    input_zero_point: Tensor | None,
    inputs: int,
    activation: str,
) -> Tensor:
    _check_input(x, inputs)
    key, *rest = packed.values()
    tensors = (*rest, scale, bias, input_scale, input_zero_point)
    version = 0 if key.is_inference() else key._version
    # One weight may serve layers with different settings, so those are part of the entry.
    entries: dict[tuple[str, int, str], tuple[int, CachedLinear]] = _cache.setdefault(key, {})  # type: ignore[no-untyped-call]
    known, cached = entries.get((kernel, inputs, activation), (-1, None))
    if cached is None or known != version or not cached.is_current(tensors):
        handle = backend.packed_linear(
            kernel,
            packed,
            inputs=inputs,
            scale=scale,
            bias=bias,
            input_scale=input_scale,
            input_zero_point=input_zero_point,
            activation=activation,
        )
        cached = CachedLinear(handle, tensors)
        entries[kernel, inputs, activation] = (version, cached)
    return run(cached.handle, x)


def _register(kernel: str) -> None:
    names = backend.KERNELS[kernel]
    name = f"linear_{kernel}_s8"
    weights = ", ".join(f"Tensor {tensor}" for tensor in names)
    _library.define(  # type: ignore[no-untyped-call]
        f"{name}(Tensor x, {weights}, Tensor scale, Tensor? bias, Tensor? input_scale, "
        "Tensor? input_zero_point, int inputs, str activation) -> Tensor"
    )

    def compute(x: Tensor, *args: Any) -> Tensor:
        packed = dict(zip(names, args[: len(names)], strict=True))
        return _linear(kernel, x, packed, *args[len(names) :])

    def fake(x: Tensor, *args: Any) -> Tensor:
        scale: Tensor = args[len(names)]
        return x.new_empty((*x.shape[:-1], scale.shape[0]))

    _library.impl(name, compute, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"sparsekd::{name}", fake, lib=_library)


for _kernel in backend.KERNELS:
    _register(_kernel)
