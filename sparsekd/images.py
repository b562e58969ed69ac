"""What operations on images share: memory formats, and the arithmetic of u8 between layers.

The functions on integers are the twins of the engine's, bit for bit, as ``docs/numerics.md``
defines them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "QuantizedOutput",
    "Residual",
    "average_affine",
    "check_elements",
    "check_residual",
    "dequantize_affine",
    "is_channels_last",
]

#: Scale and zero point of a u8 output.
QuantizedOutput = tuple[float, int]

#: What is added before the activation, fp32 or u8, with the scale and zero point of u8.
Residual = tuple[Tensor, float, int]


def is_channels_last(x: Tensor) -> bool:
    """Whether torch calls the memory format of a 4-d tensor channels_last, by its strides alone."""
    n, c, h, w = x.shape
    by_n, by_c, by_h, by_w = x.stride()
    return (
        by_c == 1
        and by_w >= c
        and by_h >= by_w * w
        and (n <= 1 or by_n >= by_h * h)
        and not (w == h == 1 and by_w < max(c, 2))
    )


def check_elements(where: str, *shape: int) -> None:
    """Refuse an output whose bytes in fp32 do not fit a signed 64-bit index.

    Raises:
        ValueError: they would not; the message begins with ``where``.
    """
    # Under a trace sizes may be symbols, on which a comparison would be a constraint.
    if not torch.compiler.is_compiling() and math.prod(shape) >= 1 << 61:
        raise ValueError(f"{where}: an output of shape {shape} does not fit 63 bits of bytes")


def check_residual(
    where: str, r: Tensor, scale: float | None, zero_point: int, shape: tuple[int, ...]
) -> Residual:
    """A residual for an output of that shape.

    Raises:
        TypeError: neither fp32 nor u8.
        ValueError: another shape, or a scale that does not go with the dtype.
    """
    if r.dtype not in (torch.float32, torch.uint8):
        raise TypeError(
            f"{where}: residual of dtype {r.dtype}, expected torch.float32 or torch.uint8"
        )
    if r.shape != shape:
        raise ValueError(
            f"{where}: residual of shape {tuple(r.shape)}, expected that of the output, {shape}"
        )
    if (r.dtype is torch.uint8) != (scale is not None):
        raise ValueError(
            f"{where}: residual of dtype {r.dtype} with residual_scale={scale}; expected a scale "
            "for torch.uint8 and none for torch.float32"
        )
    return r, 1.0 if scale is None else scale, zero_point


def dequantize_affine(u: Tensor, scale: float, zero_point: int) -> Tensor:
    """``(u - zero_point) * scale`` in fp32, rounded once.

    Args:
        u: torch.uint8, any shape.

    Returns:
        fp32 of u's shape.

    >>> dequantize_affine(torch.tensor([0, 7], dtype=torch.uint8), 0.5, 3)
    tensor([-1.5000,  2.0000])
    """
    return (u.to(torch.int32) - zero_point).to(torch.float32) * torch.tensor(
        scale, dtype=torch.float32
    )


def average_affine(
    u: Tensor,
    scale: float,
    zero_point: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Averages of u8 images in fp32: ``float(sum(u - zp)) * (scale * (1 / count))``.

    Args:
        u: torch.uint8 [batch, channels, height, width].
        Others as in ``F.avg_pool2d``.

    Returns:
        fp32 [batch, channels, height', width'].

    >>> average_affine(torch.tensor([[[[4, 6]]]], dtype=torch.uint8), 0.5, 2, (1, 2))
    tensor([[[[1.5000]]]])
    """

    def sums(x: Tensor) -> Tensor:  # of integers, exact in fp64
        return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, divisor_override=1)

    ones = torch.ones(1, 1, *u.shape[2:], dtype=torch.float64)
    count = sums(ones)
    if count_include_pad:  # torch gives the share of the window that lies inside the image
        share = F.avg_pool2d(ones, kernel, stride, padding, ceil_mode)
        count = (count / share).round()
    if divisor_override is not None:
        count = torch.full_like(count, divisor_override)
    total = sums(u.to(torch.float64) - zero_point).to(torch.float32)
    factor = torch.tensor(scale, dtype=torch.float32) * count.to(torch.float32).reciprocal()
    return total * factor
