"""Which formats are options for a layer."""

from __future__ import annotations

import torch

from sparsekd.choice import Option
from sparsekd.convert._kinds import EngineLayer, is_depthwise, is_pointwise
from sparsekd.convert._parts import TORCH, Part
from sparsekd.modules import quant_spec
from sparsekd.spec import NM, Bf16, Fp32, Int8

__all__ = ["PROBES", "default_of", "options_of", "probe_of"]

_ROOM = 1.05  # of the dense form's bytes: n:m masks of 50 % in int8, with their counts of steps
_BYTES = {Int8: 2.0, Fp32: 4.5, Bf16: 2.67}  # a kept weight in windows, without padding
_CSR_BYTES = 8.0

PROBES = (0.5, 0.75, 0.875)
"""The sparsities of the stand-ins that find the one from which sparse wins: n of 32."""


def default_of(part: Part) -> Option | None:
    """The dense option of a layer, which stays unless another one is clearly faster."""
    if is_depthwise(part.layer) and not isinstance(part.scheme, Bf16):
        if isinstance(part.scheme, Int8):
            return Option("depthwise")
    elif isinstance(part.scheme, Int8):
        return Option("dense")
    return TORCH if part.torch is not None else None


def options_of(part: Part, *, allow_float: bool) -> list[Option]:
    """The options among which measurement chooses, the default first.

    A sparse format is one where it takes no more bytes than the dense form, 5 % given: beyond that
    it reads more than it saves. Engine layers of all options are built.

    Args:
        allow_float: torch's float layer is an option for an int8 layer that was float.
    """
    int8, default = isinstance(part.scheme, Int8), default_of(part)
    found = [] if default is None else [default]
    if is_depthwise(part.layer) and isinstance(part.scheme, Fp32):
        found.append(Option("depthwise"))
    if default is not None and default != TORCH:
        room = _ROOM * part.engine(default).packed_bytes()
    else:
        room = _ROOM * 4 * (part.weights + part.shape[0])
    if part.was_sparse:
        room = float("inf")  # there is no dense form
    windows: tuple[int | None, ...] = (None,)
    if isinstance(part.scheme, Fp32):
        windows = (16, 32) if part.scheme.window is None else (part.scheme.window,)
    if part.current is not None and isinstance(part.scheme, Fp32):
        windows = (16, 32)
    tried = [(Option("windowed", window), _BYTES[type(part.scheme)]) for window in windows]
    if isinstance(part.scheme, Fp32) and is_pointwise(part.layer):
        tried.append((Option("csr"), _CSR_BYTES))
    for option, each in tried:
        if each * part.kept * part.weights > room:
            continue  # it need not be packed to know
        if part.engine(option).packed_bytes() <= room:
            found.append(option)
    if int8 and allow_float and part.torch is not None and _was_float(part):
        found.append(TORCH)
    return found


def probe_of(part: Part, sparsity: float) -> tuple[Option, EngineLayer]:
    """A windowed layer of these sizes with a random n:m mask of that sparsity.

    m is 32; for fp32 16, which it runs faster. The weights are random as well, as large as the
    layer's own, so that the model around it gets numbers of the usual size.
    """
    m = 16 if isinstance(part.scheme, Fp32) else 32
    window = 16 if isinstance(part.scheme, Fp32) else None
    default = default_of(part)
    base = part.engine(Option("windowed", window) if default in (None, TORCH) else default)
    own = base.packed_weight()
    random = torch.Generator().manual_seed(0)
    by_tap = torch.rand(own.shape, generator=random).flatten(0, 1)
    mask = NM(round((1 - sparsity) * m), m).mask(by_tap).view(own.shape)
    kept = own[own != 0].float()
    size = float(kept.square().mean().sqrt()) if kept.numel() else 1.0
    weight = torch.randn(own.shape, generator=random) * size
    if own.dtype is torch.int8:
        weight = weight.round().clamp(-127, 127)
    weight = torch.where(weight == 0, 1.0, weight) * mask
    probe = base.repacked("windowed", window=window, weight=weight.to(own.dtype))
    return Option("windowed", window, sparsity), probe


def _was_float(part: Part) -> bool:
    return part.current is None and quant_spec(part.layer) is None
