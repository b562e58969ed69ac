"""What fake-quantized layers share, and the Linear that computes with the engine's integers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparsekd import numerics
from sparsekd.modules import weight_mask
from sparsekd.quantize._observers import Observer, observer_for
from sparsekd.spec import Int8

__all__ = ["RANGE_BUFFERS", "FakeQuantLayer", "FakeQuantLinear", "quantize_static"]

RANGE_BUFFERS = ("input_min", "input_max", "input_scale", "input_zero_point")

_AVERAGING = 0.1
"""Share of the latest batch in the running range; the value that BatchNorm uses."""


class FakeQuantLayer(nn.Module):
    """The part of a fake-quantized layer that does not depend on its kind.

    With static activations the range of the input is kept in buffers: ``input_min`` and
    ``input_max`` (what was observed), ``input_scale`` (fp32) and ``input_zero_point`` (int32), one
    element each. ``calibrate`` and ``set_input_range`` fix it. In training mode each batch moves
    it: the first one sets it, each later one counts a tenth (a running average as in Jacob et al.
    2018, section 3.1); a batch that is empty or holds NaN or Inf does not count. In eval mode it
    is frozen. Until it is set, ``input_scale`` is NaN and eval raises.

    Attributes:
        scheme: how activations are quantized.
        layer_name: the name in the model when ``prepare_`` saw it, for messages.
    """

    is_fake_quant: ClassVar[bool] = True

    scheme: Int8
    layer_name: str = ""
    weight: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    input_min: Tensor
    input_max: Tensor
    _observer: Observer | None = None  # set by calibrate() while it runs

    def __init__(self, *args: Any, scheme: Int8 | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.become(scheme or Int8())

    def become(self, scheme: Int8, name: str = "") -> None:
        """Take on a scheme and register its buffers; ``prepare_`` calls it on a swapped layer."""
        self.scheme = scheme
        self.layer_name = name
        if scheme.activations == "static":
            device = self.weight.device
            for key in RANGE_BUFFERS[:3]:
                self.register_buffer(key, torch.full((), torch.nan, device=device))
            zero = torch.zeros((), dtype=torch.int32, device=device)
            self.register_buffer("input_zero_point", zero)

    @property
    def calibrated(self) -> bool:
        """False for a static layer whose input range is not known yet."""
        return self.scheme.activations == "dynamic" or not bool(self.input_scale.isnan())

    @property
    def where(self) -> str:
        """What messages call this layer."""
        return f"layer {self.layer_name!r}" if self.layer_name else f"the {type(self).__name__}"

    def effective_weight(self) -> Tensor:
        """The weight with its recorded mask applied, so that masked weights get no gradient."""
        mask = weight_mask(self)
        return self.weight if mask is None else self.weight * mask

    def set_input_range(self, lo: Tensor | float, hi: Tensor | float) -> None:
        """Fix the range of a static layer's input, for instance [0, 1] for images.

        Raises:
            ValueError: the layer is dynamic, or the range is not finite with lo <= hi.
        """
        if self.scheme.activations != "static":
            raise ValueError(f"{self.where} has dynamic activations, which take no range")
        device = self.weight.device
        low, high = (torch.as_tensor(v, dtype=torch.float32, device=device) for v in (lo, hi))
        scale, zero_point = self.range_params(low, high)
        with torch.no_grad():
            self.input_min.copy_(low)
            self.input_max.copy_(high)
            self.input_scale.copy_(scale)
            self.input_zero_point.copy_(zero_point)

    def range_params(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        """``numerics.affine_params`` with this layer's name in the error."""
        try:
            return numerics.affine_params(lo, hi)
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from error

    def forward(self, input: Tensor) -> Tensor:
        try:
            x = numerics.as_fp32(input, "input")
            self._check_input(x)
            if self._observer is not None:
                self._observer.add(x)
                with torch.autocast(x.device.type, enabled=False):
                    return self._observed(x)
            return self._integer(x, *self._static_params(x))
        except (TypeError, ValueError) as error:
            if str(error).startswith(self.where):
                raise
            raise type(error)(f"{self.where}: {error}") from error

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, int8 {self.scheme.activations}"

    def _check_input(self, x: Tensor) -> None:
        """Raise ValueError for a shape that the layer does not take."""
        raise NotImplementedError

    def _observed(self, x: Tensor) -> Tensor:
        """The output while the input's range is looked for: quantized weights, float inputs."""
        raise NotImplementedError

    def _integer(self, x: Tensor, scale: Tensor | None, zero_point: Tensor | None) -> Tensor:
        """The output on integers; scale and zero point of static activations, else None."""
        raise NotImplementedError

    def _static_params(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.scheme.activations == "dynamic":
            return None, None
        if self.training:
            self._track(x)
        if not self.calibrated:
            raise RuntimeError(
                f"{self.where} has static activations but no input range yet: call "
                "sparsekd.quantize.calibrate(model, data), or train it first"
            )
        # A copy: the next call in training moves the buffer, and backward needs this value.
        return self.input_scale.clone(), self.input_zero_point

    def _track(self, x: Tensor) -> None:
        """Move the range towards that of a batch."""
        if x.numel() == 0 or not bool(torch.isfinite(x).all()):
            return
        observer = observer_for(self.scheme)
        observer.add(x)
        seen = observer.range()
        assert seen is not None  # x is not empty
        lo, hi = seen
        if self.calibrated:
            lo = self.input_min + _AVERAGING * (lo - self.input_min)
            hi = self.input_max + _AVERAGING * (hi - self.input_max)
        self.set_input_range(lo, hi)


class FakeQuantLinear(FakeQuantLayer, nn.Linear):
    """``nn.Linear`` in int8 arithmetic: in eval mode the same bits as the engine.

    Forward quantizes weight and input and multiplies integers, as docs/numerics.md defines.
    Backward takes rounding as the identity (the straight-through estimator of Bengio et al. 2013),
    with the float scales: the gradients are those of the dequantized weight and input, and a static
    input that is clipped gets gradient zero. In training mode an output whose sums can pass 2^24
    may differ from eval by fp32 rounding, since one matmul is used.

    Args:
        in_features, out_features, bias, device, dtype: as ``nn.Linear``.
        scheme: how activations are quantized; ``Int8()`` where None.

    Shapes: input fp32 (fp16 and bf16 are widened) [..., in_features], output fp32
    [..., out_features].

    Raises:
        RuntimeError: eval of a static layer that has no range yet.
        TypeError: a weight or an input of another dtype.
        ValueError: an input of another size, or NaN or Inf in the weight.

    >>> layer = FakeQuantLinear(64, 32, scheme=Int8())
    >>> y = layer(torch.randn(8, 64))
    """

    rows_only: bool = False
    """True once a BatchNorm is folded in: in a third dimension it would mean other channels."""

    def _check_input(self, x: Tensor) -> None:
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"input of shape {tuple(x.shape)}, expected (..., {self.in_features})")
        if self.rows_only and x.dim() > 2:
            raise ValueError(
                f"input of shape {tuple(x.shape)}, expected (rows, {self.in_features}), since a "
                "BatchNorm over the columns is folded in; use prepare_(..., fold_bn=False)"
            )

    def _observed(self, x: Tensor) -> Tensor:
        q_w, w_scale = numerics.quantize_weight(self.effective_weight())
        bias = None if self.bias is None else self.bias.float()
        return F.linear(x, q_w * w_scale[:, None], bias)

    def _integer(self, x: Tensor, scale: Tensor | None, zero_point: Tensor | None) -> Tensor:
        y: Tensor = _IntegerLinear.apply(  # type: ignore[no-untyped-call]
            x, self.effective_weight(), self.bias, scale, zero_point, not self.training
        )
        return y


class _IntegerLinear(torch.autograd.Function):
    """Forward in integers, backward straight through with the float scales."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        zero_point: Tensor | None,
        exact: bool,
    ) -> Tensor:
        """x fp32; scale and zero_point: of static activations, or None for dynamic ones."""
        integers, w_scale = numerics.quantize_weight(weight)
        q_w = integers.to(torch.float32)
        inside = None
        bound = numerics.MAX_INT
        if scale is None or zero_point is None:
            a, x_scale = numerics.quantize_rows(x)
        else:
            x_scale = scale
            a, bound, inside = quantize_static(x, scale, zero_point, ctx.needs_input_grad[0])
        ctx.save_for_backward(a, x_scale, q_w, w_scale, inside)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        with torch.autocast(x.device.type, enabled=False):
            acc = numerics.integer_linear(a, q_w, bound) if exact else F.linear(a, q_w)
        y = acc.mul_(x_scale * w_scale)
        return y if bias is None else y.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, x_scale, q_w, w_scale, inside = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        weight_dtype, bias_dtype = ctx.dtypes
        grad_x = grad_weight = grad_bias = None
        outputs, inputs = q_w.shape
        rows = grad.reshape(grad.shape[:-1].numel(), outputs)
        with torch.autocast(grad.device.type, enabled=False):
            if need_x:
                grad_x = grad @ (q_w * w_scale[:, None])
                if inside is not None:
                    grad_x.mul_(inside)
            if need_weight:
                x_hat = (a * x_scale).reshape(rows.shape[0], inputs)
                grad_weight = (rows.t() @ x_hat).to(weight_dtype)
            if need_bias:
                grad_bias = rows.sum(0).to(bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None, None


def quantize_static(
    x: Tensor, scale: Tensor, zero_point: Tensor, want_inside: bool
) -> tuple[Tensor, int, Tensor | None]:
    """Static activations as integers around zero.

    Returns:
        ``(a, bound, inside)``: integer-valued fp32 of x's shape, the largest magnitude that it may
        hold, and, where asked for, which values of x round to an integer inside the range.
    """
    zp = int(zero_point)
    a = numerics.quantize_affine(x, scale, zero_point).sub_(zp)
    inside = None
    if want_inside:
        scaled = (x * torch.reciprocal(scale)).round_()
        inside = (scaled >= -zp) & (scaled <= 255 - zp)
    return a, max(zp, 255 - zp), inside
