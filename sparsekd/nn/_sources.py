"""What an engine module is made from: arguments, schemes and weights of torch modules."""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor, nn

from sparsekd import backend
from sparsekd.modules import quant_spec, weight_mask
from sparsekd.spec import Fp32, Int8, Scheme, scheme_from

__all__ = ["integer_from", "masked_weight", "scheme_for", "settle_window", "to_taps"]

_LARGEST = 2**31 - 1  # the formats hold positions and orders as int32


def integer_from(what: str, value: object, expected: str = "an integer") -> int:
    """An argument of a constructor as an int that fits into the formats.

    Raises:
        TypeError: it is no integer.
        ValueError: it is too large.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what}: {value!r}, expected {expected}") from None
    if abs(number) > _LARGEST:
        raise ValueError(f"{what}: {number}, expected at most {_LARGEST}")
    return number


def scheme_for(module: nn.Module, scheme: Scheme | None, name: str) -> Scheme:
    """The scheme that a torch module is converted with: its own fake-quant spec goes first.

    Raises:
        ValueError: no scheme at all, or static activations without calibration.
    """
    where = f"layer {name!r}" if name else "the layer"
    own = quant_spec(module)
    if own is None and scheme is None:
        raise ValueError(
            f"{where} is not fake-quantized, so a scheme is needed: pass scheme=Int8()"
        )
    chosen = own or scheme_from(scheme)  # type: ignore[arg-type]  # one of them is not None
    if isinstance(chosen, Int8) and chosen.activations == "static":
        scale = module._buffers.get("input_scale")
        # A fake-quantized layer that was never calibrated holds a NaN scale.
        if own is None or scale is None or scale.isnan():
            raise ValueError(
                f"{where} has no calibrated input range, which static activations need: call "
                "quantize.prepare_ and quantize.calibrate first"
            )
    return chosen


def settle_window(
    scheme: Scheme,
    kernel: str,
    module: nn.Module,
    name: str,
    geometry: backend.ConvGeometry | None = None,
) -> Scheme:
    """Fp32 with the window that is cheaper for the module's weight, unless one is asked for."""
    if not isinstance(scheme, Fp32) or scheme.window is not None or kernel != "windowed":
        return scheme
    weight = to_taps(masked_weight(module, name))
    if geometry is not None and weight.shape[1] != math.prod(geometry.kernel):
        return Fp32(16)  # fill_from refuses a weight of another shape
    return Fp32(16 if backend.cheaper_window(weight, geometry) == 16 else 32)


def masked_weight(module: nn.Module, name: str) -> Tensor:
    """The weight of a torch module with its recorded mask applied: fp32, on the CPU.

    Raises:
        ValueError: a mask of another shape or dtype; the message names the layer.
    """
    weight, mask = module.weight, weight_mask(module)
    assert isinstance(weight, Tensor)  # every kind that from_float takes has one
    if weight.is_meta or weight.is_complex():
        came = "on device meta" if weight.is_meta else f"of dtype {weight.dtype}"
        where = f"layer {name!r}" if name else "the layer"
        raise ValueError(f"{where}: a weight {came}, expected real numbers")
    if mask is not None and (mask.dtype is not torch.bool or mask.shape != weight.shape):
        raise ValueError(
            f"{f'layer {name!r}' if name else 'the layer'}: weight_mask of {mask.dtype} and shape "
            f"{tuple(mask.shape)}, expected torch.bool and {tuple(weight.shape)}"
        )
    weight = weight.detach().to("cpu", torch.float32)
    return weight if mask is None else weight.masked_fill(~mask.to("cpu"), 0.0)


def to_taps(weight: Tensor) -> Tensor:
    """[outputs, channels of a group, *kernel] to [outputs, taps, channels of a group]."""
    outputs, channels, *kernel = weight.shape
    return weight.movedim(1, -1).reshape(outputs, math.prod(kernel), channels).contiguous()
