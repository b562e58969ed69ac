"""The engine's operations on tensors: registered with torch, and called directly when eager.

``torch.ops.sparsekd.linear_windowed_s8`` and ``linear_dense_s8`` are what ``torch.compile`` and
``torch.export`` see. In eager mode the dispatcher would cost more than a small layer takes, so a
plain CPU tensor goes to the compiled handle directly (:func:`can_run_directly`, :func:`run`).
"""

from __future__ import annotations

import weakref
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
    y = x.new_empty((*leading, handle.outputs))
    rows = x.numel() // inputs if inputs else y.numel() // max(1, handle.outputs)
    handle.forward(x.data_ptr(), rows, y.data_ptr(), torch.get_num_threads())
    return y


class CachedLinear:
    """A compiled handle together with the tensors that it was made from.

    The handle holds copies, so it is stale as soon as one of the tensors is replaced or written
    to. Tensors are held weakly: a cache keyed by one of them must not keep it alive.
    """

    __slots__ = ("_references", "_versions", "handle")

    def __init__(self, handle: LinearS8, tensors: Iterable[Tensor | None]) -> None:
        self.handle = handle
        given = tuple(tensors)
        self._references = tuple(None if t is None else weakref.ref(t) for t in given)
        self._versions = tuple(map(_version, given))

    def is_current(self, tensors: Iterable[Tensor | None]) -> bool:
        """True when these very tensors, unchanged, are what the handle was made from."""
        for reference, tensor, version in zip(
            self._references, tensors, self._versions, strict=True
        ):
            if reference is None or tensor is None:
                if reference is not tensor:
                    return False
            elif reference() is not tensor or _version(tensor) != version:
                return False
        return True


def _version(tensor: Tensor | None) -> int:
    # Inference tensors have no version counter; nothing outside inference mode can write to them.
    return 0 if tensor is None or tensor.is_inference() else tensor._version


_cache: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_library = torch.library.Library("sparsekd", "DEF")


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
    tensors = (*packed.values(), scale, bias, input_scale, input_zero_point)
    key = next(iter(packed.values()))
    # One weight may serve layers with different settings, so those are part of the entry.
    entries: dict[tuple[str, int, str], CachedLinear] = _cache.setdefault(key, {})
    cached = entries.get((kernel, inputs, activation))
    if cached is None or not cached.is_current(tensors):
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
        cached = entries[kernel, inputs, activation] = CachedLinear(handle, tensors)
    return run(cached.handle, x)


def _register(kernel: str) -> None:
    names = backend.KERNELS[kernel]
    name = f"linear_{kernel}_s8"
    weights = ", ".join(f"Tensor {tensor}" for tensor in names)
    _library.define(
        f"{name}(Tensor x, {weights}, Tensor scale, Tensor? bias, Tensor? input_scale, "
        "Tensor? input_zero_point, int inputs, str activation) -> Tensor"
    )

    def compute(x: Tensor, *args: Any) -> Tensor:
        packed = dict(zip(names, args[: len(names)], strict=True))
        return _linear(kernel, x, packed, *args[len(names) :])

    def fake(x: Tensor, *args: Any) -> Tensor:
        scale: Tensor = args[len(names)]
        return x.new_empty((*x.shape[:-1], scale.shape[0]))

    _library.impl(name, compute, "CPU")
    torch.library.register_fake(f"sparsekd::{name}", fake, lib=_library)


for _kernel in backend.KERNELS:
    _register(_kernel)
