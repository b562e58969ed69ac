"""Convolutions that compute with the engine's integers and train straight through them."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparsekd import numerics
from sparsekd.quantize._fake_quant import FakeQuantLayer, quantize_static
from sparsekd.spec import Int8

__all__ = ["FakeQuantConv1d", "FakeQuantConv2d"]

_Pads = tuple[int, int, int, int]
_Geometry = tuple[tuple[int, int], _Pads, tuple[int, int], int]


class _FakeQuantConv(FakeQuantLayer):
    """What both kinds share; a Conv1d is a Conv2d over images of height 1."""

    dims: int
    in_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
    bias: Tensor | None

    def become(self, scheme: Int8, name: str = "") -> None:
        if self.padding_mode != "zeros":
            raise ValueError(f"{self.where}: padding_mode {self.padding_mode!r}, expected 'zeros'")
        super().become(scheme, name)

    def pads(self) -> _Pads:
        """Zeros put around an image: (left, right, top, bottom)."""
        if self.padding == "same":
            # torch puts the odd one of an uneven total at the end.
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            sides = [(total // 2, total - total // 2) for total in totals]
        elif isinstance(self.padding, str):  # "valid"
            sides = [(0, 0)] * self.dims
        else:
            sides = [(p, p) for p in self.padding]
        top, bottom = sides[0] if self.dims == 2 else (0, 0)
        return (*sides[-1], top, bottom)

    def _check_input(self, x: Tensor) -> None:
        if (
            x.dim() not in (self.dims + 1, self.dims + 2)
            or x.shape[-self.dims - 1] != self.in_channels
        ):
            sizes = "height, width" if self.dims == 2 else "length"
            raise ValueError(
                f"input of shape {tuple(x.shape)}, expected ([batch,] {self.in_channels}, {sizes})"
            )
        left, right, top, bottom = self.pads()
        around = ((top + bottom), (left + right))[-self.dims :]
        needed = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        padded = [s + p for s, p in zip(x.shape[-self.dims :], around, strict=True)]
        if any(have < need for have, need in zip(padded, needed, strict=True)):
            raise ValueError(
                f"input of shape {tuple(x.shape)} is smaller than the kernel: with padding it has "
                f"size {tuple(padded)}, expected at least {tuple(needed)}"
            )

    def _observed(self, x: Tensor) -> Tensor:
        weight = self.effective_weight()
        q_w, w_scale = numerics.quantize_weight(weight)
        w_hat = q_w * w_scale.reshape(-1, *[1] * (weight.dim() - 1))
        bias = None if self.bias is None else self.bias.float()
        y: Tensor = self._conv_forward(x, w_hat, bias)  # type: ignore[operator]
        return y

    def _integer(self, x: Tensor, scale: Tensor | None, zero_point: Tensor | None) -> Tensor:
        weight, batched = self.effective_weight(), x.dim() == self.dims + 2
        if not batched:  # one sample
            x = x.unsqueeze(0)
        stride, dilation = self.stride, self.dilation
        if self.dims == 1:
            x, weight = x.unsqueeze(2), weight.unsqueeze(2)
            stride, dilation = (1, *stride), (1, *dilation)
        geometry = (stride, self.pads(), dilation, self.groups)
        y: Tensor = _IntegerConv2d.apply(  # type: ignore[no-untyped-call]
            x, weight, self.bias, scale, zero_point, geometry, not self.training
        )
        if self.dims == 1:
            y = y.squeeze(2)
        return y if batched else y.squeeze(0)


class FakeQuantConv2d(_FakeQuantConv, nn.Conv2d):
    """``nn.Conv2d`` in int8 arithmetic: in eval mode the same bits as the engine.

    As :class:`FakeQuantLinear`, with one scale an output channel over (C / groups, kh, kw) for the
    weights, and for dynamic activations one scale a sample over its (C, H, W). Padding is the
    integer zero, so static activations pad with the zero point.

    Args:
        as ``nn.Conv2d``; and ``scheme``: how activations are quantized, ``Int8()`` where None.

    Shapes: input fp32 (fp16 and bf16 are widened) [batch, C, H, W] or, one sample, [C, H, W].

    Raises:
        RuntimeError: eval of a static layer that has no range yet.
        TypeError: a weight or an input of another dtype.
        ValueError: an input of another shape or smaller than the kernel; NaN or Inf in the weight;
            a ``padding_mode`` other than zeros.

    >>> layer = FakeQuantConv2d(3, 8, 3, padding="same", scheme=Int8())
    >>> y = layer(torch.randn(2, 3, 16, 16))
    """

    dims = 2


class FakeQuantConv1d(_FakeQuantConv, nn.Conv1d):
    """``nn.Conv1d`` in int8 arithmetic: :class:`FakeQuantConv2d` over images of height 1.

    Shapes: input fp32 [batch, C, L] or, one sample, [C, L].

    >>> layer = FakeQuantConv1d(3, 8, 3, padding="same", scheme=Int8())
    >>> y = layer(torch.randn(2, 3, 16))
    """

    dims = 1


class _IntegerConv2d(torch.autograd.Function):
    """Forward in integers, backward straight through with the float scales."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        zero_point: Tensor | None,
        geometry: _Geometry,
        exact: bool,
    ) -> Tensor:
        """x fp32 [samples, C, H, W]; scale and zero_point: static activations, or None."""
        integers, w_scale = numerics.quantize_weight(weight)
        # Like the weight, so that torch's rule for the memory format of the output holds.
        q_w = torch.empty_like(weight, dtype=torch.float32).copy_(integers)
        inside = None
        bound = numerics.MAX_INT
        if scale is None or zero_point is None:
            a, x_scale = numerics.quantize_samples(x)
        else:
            x_scale = scale
            a, bound, inside = quantize_static(x, scale, zero_point, ctx.needs_input_grad[0])
        ctx.save_for_backward(a, x_scale, q_w, w_scale, inside)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.geometry = geometry
        stride, pads, dilation, groups = geometry
        if exact:
            acc = numerics.integer_conv2d(
                a, q_w, bound, stride=stride, padding=pads, dilation=dilation, groups=groups
            )
        else:
            a, symmetric = _pad(a, pads)
            with torch.autocast(x.device.type, enabled=False):
                acc = F.conv2d(a, q_w, None, stride, symmetric, dilation, groups)
        y = acc.mul_(x_scale * w_scale[:, None, None])
        return y if bias is None else y.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, x_scale, q_w, w_scale, inside = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        stride, pads, dilation, groups = ctx.geometry
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        x_hat, symmetric = _pad(a * x_scale, pads)
        with torch.autocast(grad.device.type, enabled=False):
            grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
                grad,
                x_hat,
                q_w * w_scale[:, None, None, None],
                [q_w.shape[0]],
                stride,
                symmetric,
                dilation,
                False,
                [0, 0],
                groups,
                [need_x, need_weight, need_bias],
            )
        if need_x:
            grad_x = _crop(grad_x, pads) if x_hat.shape != a.shape else grad_x
            grad_x = grad_x if inside is None else grad_x * inside
        return (
            grad_x,
            grad_weight.to(weight_dtype) if need_weight else None,
            grad_bias.to(bias_dtype) if need_bias else None,
            *[None] * 4,
        )


def _pad(x: Tensor, pads: _Pads) -> tuple[Tensor, tuple[int, int]]:
    """(x, what is left for the convolution to pad): uneven padding is put on x itself."""
    left, right, top, bottom = pads
    if left == right and top == bottom:
        return x, (top, left)
    return F.pad(x, pads), (0, 0)


def _crop(x: Tensor, pads: _Pads) -> Tensor:
    """The image inside the padding."""
    left, right, top, bottom = pads
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
