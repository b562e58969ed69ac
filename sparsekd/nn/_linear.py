"""nn.Linear on the engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsekd import backend, direct, ops
from sparsekd.nn._engine import EngineModule
from sparsekd.nn._sources import integer_from, scheme_for, settle_window
from sparsekd.spec import Int8, Scheme

__all__ = ["Linear"]


class Linear(EngineModule):
    """y = act(x W^T + b) with a packed weight; for inference.

    Takes what ``nn.Linear`` takes: x fp32 [..., in_features] on the CPU, gives fp32
    [..., out_features]. The arithmetic is that of docs/numerics.md; in int8 the same integers as
    the fake-quantized module in eval mode, on every instruction set and for any number of threads.
    A new instance keeps no weights (y = act(b)); ``from_float`` and ``load_state_dict`` fill it.

    Args:
        scheme: Int8 (default), Fp32 or Bf16.
        kernel: int8: "windowed" (sparse weights) or "dense"; fp32: "windowed" or "csr"; bf16:
            "windowed".
        activation: None, "relu", "relu6", "gelu" (the erf form), "silu" or "hardswish", applied to
            the output.

    Raises:
        TypeError: a size that is no integer.
        ValueError: an unknown kernel or activation, or a size below 0 or past 2^31 - 1.
        MemoryError: a new layer's weight, which is dense while it is packed, does not fit.

    >>> layer = Linear.from_float(nn.Linear(64, 32), scheme=Int8(), kernel="dense")
    >>> y = layer(torch.rand(8, 64))
    """

    in_features: int
    out_features: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scheme: Scheme | None = None,
        kernel: str = "windowed",
        activation: str | None = None,
    ) -> None:
        in_features = integer_from("Linear: in_features", in_features)
        out_features = integer_from("Linear: out_features", out_features)
        if in_features < 0 or out_features < 0:
            raise ValueError(
                f"Linear: in_features={in_features}, out_features={out_features}, "
                "expected at least 0"
            )
        if kernel == "depthwise":
            raise ValueError("kernel 'depthwise' serves convolutions; Linear takes another")
        settings = backend.LayerSettings(in_features, out_features, activation)
        super().__init__(settings, (out_features, 1, in_features), bias, scheme, kernel)
        self.in_features = in_features
        self.out_features = out_features

    @classmethod
    def from_float(
        cls,
        module: nn.Linear,
        *,
        scheme: Scheme | None = None,
        kernel: str = "windowed",
        activation: str | None = None,
        name: str = "",
    ) -> Linear:
        """Pack a float or fake-quantized ``nn.Linear``.

        Args:
            module: its recorded mask (buffer ``weight_mask``) is applied; its own fake-quant
                scheme, with the calibrated ranges, goes before ``scheme``.
            scheme: for a float module; Int8 only with dynamic activations, since nothing is
                calibrated.
            name: the module's name, for error messages.

        Raises:
            ValueError: no scheme, a static scheme without calibration, or weights that are not
                finite.
        """
        if not isinstance(module, nn.Linear):
            raise TypeError(f"Linear.from_float: got {type(module).__name__}, expected nn.Linear")
        chosen = settle_window(scheme_for(module, scheme, name), kernel, module, name)
        layer = cls(
            module.in_features,
            module.out_features,
            module.bias is not None,
            scheme=chosen,
            kernel=kernel,
            activation=activation,
        )
        layer.fill_from(module, name=name)
        return layer

    def _forward(self, input: Tensor) -> Tensor:
        if not direct.can_run_directly(input):
            ops.check_indirect(input, self._where())
            input = ops.as_fp32(input, self._where())
            if input.requires_grad:
                self._refuse_gradient()
            arguments = (*self._buffers.values(), *ops.linear_arguments(self._settings))
            result: Tensor = ops.linear_op(self._format)(input, *arguments)
            return result
        if input.dtype is not torch.float32:
            input = ops.as_fp32(input, self._where())
        if input.dim() == 0 or input.shape[-1] != self.in_features:
            raise ValueError(
                f"{self._where()}: input of shape {tuple(input.shape)}, expected "
                f"(..., {self.in_features})"
            )
        if input.requires_grad:
            self._refuse_gradient()
        try:
            return ops.run_linear(self._handle(), input)
        except RuntimeError:  # sparse and such: looked at only now, so that it costs nothing
            ops.check_indirect(input, self._where())
            raise

    def int_weight(self) -> Tensor:
        """The quantized weight, int8 [out_features, in_features].

        Raises:
            ValueError: the layer is not int8.
        """
        if not isinstance(self.scheme, Int8):
            raise ValueError(f"{self._where()} holds no integers: its scheme is {self.scheme}")
        return self.packed_weight()[:, 0]

    def weight_dequantized(self) -> Tensor:
        """The weight that the layer computes with, fp32 [out_features, in_features]."""
        return self._dequantized()[:, 0]

    def to_float(self) -> nn.Linear:
        """A torch layer with the dequantized weight, and a ``weight_mask`` if any weight is zero.

        Rounding stays: an int8 layer's weight becomes q * scale. The activation is not part of it.
        """
        # Without torch's initialisation, which would draw from the caller's random numbers.
        layer = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, self.in_features, self.out_features, self.bias is not None, device="cpu"
        )
        filled: nn.Linear = self._fill_float(layer, self.weight_dequantized())
        return filled

    def _fresh(self, scheme: Scheme, kernel: str) -> Linear:
        return Linear(
            self.in_features,
            self.out_features,
            self.bias is not None,
            scheme=scheme,
            kernel=kernel,
            activation=self.activation,
        )

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, {self._describe()}"
