"""The integer arithmetic of sparsekd in torch operations: the twin of the C++ engine, bit for bit.

Every function is pure. Each fp32 step is one torch operation, in the order that
``docs/numerics.md`` fixes, because the engine rounds after the same steps. Integers travel as
integer-valued fp32, so that they can go through ``F.linear``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "EXACT_LIMIT",
    "INV127",
    "MAX_INT",
    "TINY",
    "affine_params",
    "as_fp32",
    "integer_conv2d",
    "integer_linear",
    "quantize_affine",
    "quantize_rows",
    "quantize_samples",
    "quantize_symmetric",
    "quantize_weight",
    "symmetric_scale",
]

MAX_INT: Final = 127
"""The largest magnitude of a symmetric integer; -128 is not used."""

INV127: Final = float.fromhex("0x1.020408p-7")
"""fp32(1/127). Scales are a product with it, so that no backend can replace a division."""

TINY: Final = 2.0**-100
"""Ranges below this count as zero: the reciprocal of their scale would near fp32's limit."""

EXACT_LIMIT: Final = 2**24
"""fp32 adds integers exactly, in any order, while no partial sum exceeds this."""

_MAX_AFFINE: Final = 255
_INT32_LIMIT: Final = 2**31

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
}
"""The activations that the engine fuses, as torch computes them (GELU in its erf form)."""


def symmetric_scale(absmax: Tensor) -> Tensor:
    """The scale that maps [-absmax, absmax] to [-127, 127].

    Args:
        absmax: fp32, any shape, not negative.

    Returns:
        fp32, same shape: ``absmax * fp32(1/127)``; 1 below 2^-100; NaN where absmax is Inf or NaN.

    >>> symmetric_scale(torch.tensor([0.0, float("inf")]))
    tensor([1., nan])
    """
    scale = absmax * INV127
    scale = torch.where(absmax < TINY, 1.0, scale)
    return torch.where(torch.isfinite(absmax), scale, float("nan"))


def quantize_symmetric(x: Tensor, scale: Tensor) -> Tensor:
    """``rne(clamp(x * (1 / scale), -127, 127))``, and 0 where the scale is NaN.

    A row whose absmax is below 2^-100 has scale 1, so its integers are 0 without a special case.

    Args:
        x: fp32 [..., n].
        scale: fp32, broadcastable to x, for instance [..., 1].

    Returns:
        integer-valued fp32, the shape of x, in [-127, 127].

    >>> quantize_symmetric(torch.tensor([[-1.0, 0.3]]), torch.tensor([[0.01]]))
    tensor([[-100.,   30.]])
    """
    scaled = x * torch.reciprocal(scale)
    return scaled.clamp_(-MAX_INT, MAX_INT).round_().nan_to_num_(nan=0.0)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 weights with one scale an output.

    Args:
        weight: fp32 (fp16 and bf16 are widened) [N, K] or [N, ...].

    Returns:
        ``(q, scale)``: int8 of the weight's shape, and fp32 [N].

    Raises:
        TypeError: the weight is not floating point of at most 32 bits.
        ValueError: an output holds NaN or Inf; the message names its index.

    >>> quantize_weight(torch.tensor([[-2.0, 1.0]]))[0]
    tensor([[-127,   64]], dtype=torch.int8)
    """
    weight = as_fp32(weight, "weight")
    flat = weight.reshape(weight.shape[0], -1) if weight.numel() else weight.flatten(1)
    absmax = _absmax(flat)
    bad = ~torch.isfinite(absmax)
    if bool(bad.any()):
        index = int(bad.flatten().nonzero()[0])
        raise ValueError(f"the weight of output {index} holds NaN or Inf; int8 needs finite values")
    scale = symmetric_scale(absmax)
    q = quantize_symmetric(flat, scale)
    return q.to(torch.int8).reshape(weight.shape), scale.flatten()


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Dynamic activations of a Linear: each row (last dimension) has a symmetric scale of its own.

    Args:
        x: fp32 (fp16 and bf16 are widened) [..., K].

    Returns:
        ``(q, scale)``: integer-valued fp32 [..., K] in [-127, 127], and fp32 [..., 1]. A row that
        holds NaN or Inf has scale NaN and q = 0, so it spoils its own outputs and no other row's.

    Raises:
        TypeError: x is not floating point of at most 32 bits.

    >>> quantize_rows(torch.tensor([[1.0, -0.5]]))[0]
    tensor([[127., -64.]])
    """
    x = as_fp32(x, "input")
    scale = symmetric_scale(_absmax(x))
    return quantize_symmetric(x, scale), scale


def quantize_samples(x: Tensor) -> tuple[Tensor, Tensor]:
    """Dynamic activations of a convolution: each sample has one scale over all its values.

    One scale an image rather than one a pixel, because an output sums taps of several pixels.

    Args:
        x: fp32 (fp16 and bf16 are widened) [samples, C, ...].

    Returns:
        ``(q, scale)``: integer-valued fp32 of x's shape in [-127, 127], and fp32
        [samples, 1, ...]. A sample that holds NaN or Inf has scale NaN and q = 0.

    Raises:
        TypeError: x is not floating point of at most 32 bits.

    >>> quantize_samples(torch.tensor([[[1.0, -0.5]], [[0.2, 0.1]]]))[0][1]
    tensor([[127.,  64.]])
    """
    x = as_fp32(x, "input")
    ones = (1,) * (x.dim() - 1)
    if x.numel() == 0:
        absmax = x.new_zeros(x.shape[0], *ones)
    else:
        absmax = x.abs().amax(dim=tuple(range(1, x.dim())), keepdim=True)
    scale = symmetric_scale(absmax)
    return quantize_symmetric(x, scale), scale


def affine_params(lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of static u8 activations whose values lie in [lo, hi].

    The range is widened to hold zero, which is then an integer exactly. A range so narrow that its
    scale is below 2^-100 counts as empty and gets scale 1.

    Args:
        lo, hi: fp32, one element each.

    Returns:
        ``(scale, zero_point)``: 0-d fp32 and 0-d int32 in [0, 255].

    Raises:
        ValueError: a bound is NaN or Inf, lo exceeds hi, or hi - lo exceeds fp32.

    >>> affine_params(torch.tensor(-1.0), torch.tensor(4.1))[1].item()
    50
    """
    low, high = lo.detach().float().reshape(()), hi.detach().float().reshape(())
    spread = high.clamp(min=0.0) - low.clamp(max=0.0)
    if not bool(torch.isfinite(spread)) or bool(low > high):
        raise ValueError(
            f"a static range needs finite fp32 bounds with lo <= hi, got [{low:g}, {high:g}]"
        )
    # The divisor is a tensor, since a scalar divisor may be turned into a product on some devices.
    scale = spread / torch.full_like(spread, _MAX_AFFINE)
    scale = torch.where(scale < TINY, 1.0, scale)
    zero_point = (-low.clamp(max=0.0) * torch.reciprocal(scale)).round().clamp(0, _MAX_AFFINE)
    return scale, zero_point.to(torch.int32)


def quantize_affine(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """``rne(clamp(x * (1 / scale), -zp, 255 - zp)) + zp``; NaN gives zp.

    Args:
        x: fp32 (fp16 and bf16 are widened), any shape.
        scale: fp32, one element.
        zero_point: int32, one element, in [0, 255].

    Returns:
        integer-valued fp32, the shape of x, in [0, 255].

    Raises:
        TypeError: x is not floating point of at most 32 bits.

    >>> quantize_affine(torch.tensor([0.5, -9.0]), torch.tensor(0.1), torch.tensor(50))
    tensor([55.,  0.])
    """
    zp = int(zero_point)
    scaled = as_fp32(x, "input") * torch.reciprocal(scale)
    scaled = scaled.clamp_(-zp, _MAX_AFFINE - zp).round_().nan_to_num_(nan=0.0)
    return scaled.add_(zp)


def integer_linear(a: Tensor, q_w: Tensor, bound: int) -> Tensor:
    """The exact integer product ``a @ q_w.T``, converted to fp32 once (round half to even).

    One ``F.linear`` when every partial sum stays within 2^24, where fp32 is exact in any order of
    summation; else the inputs are split into chunks that do, added in int32. Autocast is off.

    Args:
        a: integer-valued fp32 [..., K].
        q_w: integer-valued fp32 [N, K], magnitudes at most 127.
        bound: the largest magnitude that a can hold: 127, or max(zp, 255 - zp).

    Returns:
        fp32 [..., N].

    Raises:
        ValueError: the shapes do not fit, or ``bound * sum|q_w|`` of an output reaches 2^31.

    >>> integer_linear(torch.tensor([[3.0, -2.0]]), torch.tensor([[10.0, 1.0]]), bound=127)
    tensor([[28.]])
    """
    if q_w.dim() != 2 or a.dim() < 1 or a.shape[-1] != q_w.shape[1]:
        raise ValueError(
            f"integer_linear needs a [..., K] and q_w [N, K], got {tuple(a.shape)} "
            f"and {tuple(q_w.shape)}"
        )
    worst = _checked_worst_sum(q_w, bound)
    with torch.autocast(a.device.type, enabled=False):
        if worst <= EXACT_LIMIT:
            # -0.0 (such as 0 * -3) is no integer; adding zero makes it the +0.0 that int gives.
            return F.linear(a, q_w).add_(0.0)
        total = torch.zeros(*a.shape[:-1], q_w.shape[0], dtype=torch.int32, device=a.device)
        for begin, end in _exact_chunks(q_w, bound, 0, q_w.shape[1]):
            total += F.linear(a[..., begin:end], q_w[:, begin:end]).to(torch.int32)
        return total.to(torch.float32)


def integer_conv2d(
    a: Tensor,
    q_w: Tensor,
    bound: int,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """The exact integer convolution, converted to fp32 once; ``integer_linear`` over taps.

    Padding is the integer 0, which is what the byte zp stands for.

    Args:
        a: integer-valued fp32 [samples, C, H, W].
        q_w: integer-valued fp32 [N, C / groups, kh, kw], magnitudes at most 127.
        bound: the largest magnitude that a can hold: 127, or max(zp, 255 - zp).
        padding: (left, right, top, bottom), as for ``F.pad``.
        stride, dilation, groups: as for ``F.conv2d``.

    Returns:
        fp32 [samples, N, H', W'].

    Raises:
        ValueError: ``bound * sum|q_w|`` of an output reaches 2^31.

    >>> integer_conv2d(torch.ones(1, 2, 3, 3), torch.full((1, 2, 3, 3), 5.0), bound=127)
    tensor([[[[90.]]]])
    """
    flat = q_w.flatten(1)
    worst = _checked_worst_sum(flat, bound)
    left, right, top, bottom = padding
    if left != right or top != bottom:
        a, left, top = F.pad(a, padding), 0, 0

    def conv(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, stride, (top, left), dilation, groups)

    # NNPACK computes convolutions through Winograd or Fourier transforms, which are not exact.
    with (
        torch.autocast(a.device.type, enabled=False),
        torch.backends.nnpack.flags(enabled=False),
    ):
        if worst <= EXACT_LIMIT:
            return conv(a, q_w).add_(0.0)
        taps = q_w[0, 0].numel()
        samples, inputs, *size = a.shape
        grouped = a.reshape(samples, groups, inputs // groups, *size)
        total = None
        for begin, end in _exact_chunks(flat, bound, 0, flat.shape[1]):
            part = torch.zeros_like(flat)
            part[:, begin:end] = flat[:, begin:end]
            channels = slice(begin // taps, -(-end // taps))
            weight = part.reshape(q_w.shape)[:, channels]
            sums = conv(grouped[:, :, channels].flatten(1, 2), weight).to(torch.int32)
            total = sums if total is None else total.add_(sums)
        assert total is not None  # sums this large have terms
        return total.to(torch.float32)


def as_fp32(x: Tensor, what: str) -> Tensor:
    """x in fp32 without rounding: fp16 and bf16 are widened, all else but fp32 is refused."""
    if x.dtype is torch.float32:
        return x
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.float()
    raise TypeError(f"the {what} must be float32, float16 or bfloat16, got {x.dtype}")


def _absmax(x: Tensor) -> Tensor:
    """Largest magnitude of the last dimension, kept as a dimension; NaN wins, no values give 0."""
    if x.shape[-1] == 0:
        return x.new_zeros(*x.shape[:-1], 1)
    return x.abs().amax(dim=-1, keepdim=True)


def _checked_worst_sum(q_w: Tensor, bound: int) -> int:
    worst = _worst_sum(q_w, bound)
    if worst >= _INT32_LIMIT:
        raise ValueError(
            f"a sum could reach {worst}, past the int32 limit 2^31: "
            "the layer has too many large weights in one output; split its inputs"
        )
    return worst


def _worst_sum(q_w: Tensor, bound: int) -> int:
    """The largest magnitude that a sum of one output can reach."""
    if q_w.numel() == 0:
        return 0
    # float64 holds these sums exactly.
    return bound * int(torch.linalg.vector_norm(q_w, 1, dim=1, dtype=torch.float64).max())


def _exact_chunks(q_w: Tensor, bound: int, begin: int, end: int) -> list[tuple[int, int]]:
    """Halve [begin, end) until each part's sums stay within 2^24."""
    if end - begin == 1 or _worst_sum(q_w[:, begin:end], bound) <= EXACT_LIMIT:
        return [(begin, end)]
    middle = (begin + end) // 2
    return _exact_chunks(q_w, bound, begin, middle) + _exact_chunks(q_w, bound, middle, end)
