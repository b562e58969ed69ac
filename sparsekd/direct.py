"""Eager calls of engine modules past the dispatcher, which costs more than a small layer takes.

The common case is one native call (:func:`direct_call`, csrc/bindings/direct.h). What it declines
takes the steps of :mod:`sparsekd.ops`: directly, where :func:`can_run_directly` says so, else
through the registered op.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sparsekd import backend

__all__ = ["CachedLayer", "DirectCall", "can_run_directly", "declined", "direct_call"]

_is_compiling = torch.compiler.is_compiling

#: Each gives 0 or None while nothing of its kind has to see a call: dispatch and function modes,
#: transforms such as vmap, torch.jit.trace.
_OBSERVERS = (
    torch._C._len_torch_dispatch_stack,
    torch._C._len_torch_function_stack,
    torch._C._functorch.peek_interpreter_stack,
    torch._C._get_tracing_state,
)


def can_run_directly(x: Tensor) -> bool:
    """True when nothing between Python and the kernel has to see the call.

    That is: a plain CPU tensor that is not lazily negated, not compiling or tracing, no dispatch or
    function mode, no vmap, no forward-mode differentiation.
    """
    return (
        not _is_compiling()
        and type(x) is Tensor
        and x.is_cpu
        and not x.is_neg()
        and not any(observer() for observer in _OBSERVERS)
        and forward_ad._current_level < 0
    )


#: A direct call: gives the output, or None where it does not serve the call.
DirectCall = Callable[[Tensor, dict[str, Tensor | None]], Tensor | None]


@functools.cache
def _torch() -> Any:
    """What the extension, which does not link torch, asks of it in a direct call."""
    return backend.require().Torch(Tensor, _OBSERVERS, vars(forward_ad), torch.get_num_threads)


def declined(x: Tensor, buffers: dict[str, Tensor | None]) -> Tensor | None:
    """The direct call of a layer that has none."""
    return None


def direct_call(handle: Any, tensors: tuple[Tensor | None, ...], *dims: int) -> DirectCall:
    """The whole of an eager call in native code.

    Args:
        tensors: those that the handle was made from, in the order of the module's buffers; once one
            of them is replaced or written to, every call is declined.
        dims: the dimensions of the input, for a convolution alone.

    Returns:
        ``call(x, buffers)``: the output, or None for everything but a plain fp32 tensor of the
        right shape, in a memory format that the layer reads in place, with nothing active that has
        to see the call. A torch without DLPack's C functions gets :func:`declined`.
    """
    return handle.direct(_torch(), tensors, *dims) if _torch().can_read else declined


class CachedLayer:
    """A compiled handle together with the tensors that it was made from.

    The handle holds copies, so it is stale as soon as one of the tensors is replaced or written
    to. Inference tensors have no version counter: a write to one is not noticed.

    Attributes:
        call: see :func:`direct_call`; declines everything unless one is given.
    """

    __slots__ = ("_counted", "_tensors", "_versions", "call", "handle")

    def __init__(
        self, handle: Any, tensors: Iterable[Tensor | None], call: DirectCall = declined
    ) -> None:
        self.handle = handle
        self.call = call
        self._tensors = tuple(tensors)
        self._counted = tuple(t for t in self._tensors if t is not None and not t.is_inference())
        self._versions = [t._version for t in self._counted]

    def is_current(self, tensors: Iterable[Tensor | None]) -> bool:
        """True when these very tensors, unchanged, are what the handle was made from."""
        return (
            all(map(operator.is_, self._tensors, tensors))
            and [t._version for t in self._counted] == self._versions
        )
