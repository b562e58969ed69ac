"""nn.Linear on int8 kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsekd import backend, numerics, ops
from sparsekd.modules import quant_spec, weight_mask
from sparsekd.spec import Int8

if TYPE_CHECKING:
    from sparsekd._native import LinearS8

__all__ = ["Linear"]

_STATIC = ("input_scale", "input_zero_point")


class Linear(nn.Module):
    """y = act(x W^T + b) with int8 weights and 8-bit activations; for inference.

    Takes what ``nn.Linear`` takes: x fp32 [..., in_features] on the CPU, gives fp32
    [..., out_features]. The arithmetic is that of docs/numerics.md: the same integers as the
    fake-quantized module in eval mode, on every instruction set and for any number of threads.
    A new instance keeps no weights (y = act(b)); ``from_float`` and ``load_state_dict`` fill it.

    Args:
        scheme: how activations are quantized.
        kernel: "windowed" (sparse weights) or "dense".
        activation: None, "relu", "gelu" (the erf form) or "silu", applied to the output.

    Raises:
        ValueError: an unknown kernel or activation, or negative sizes.

    >>> layer = Linear.from_float(nn.Linear(64, 32), scheme=Int8(), kernel="dense")
    >>> y = layer(torch.rand(8, 64))
    """

    in_features: int
    out_features: int
    scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scheme: Int8 | None = None,
        kernel: str = "windowed",
        activation: str | None = None,
    ) -> None:
        super().__init__()
        if in_features < 0 or out_features < 0:
            raise ValueError(
                f"Linear: in_features={in_features}, out_features={out_features}, "
                "expected at least 0"
            )
        if activation is not None and activation not in numerics.ACTIVATIONS:
            choices = ", ".join(numerics.ACTIVATIONS)
            raise ValueError(f"unknown activation {activation!r}; choices are None, {choices}")
        self.in_features = in_features
        self.out_features = out_features
        self.scheme = Int8() if scheme is None else scheme
        self.kernel = kernel
        self.activation = activation
        self._cached: ops.CachedLinear | None = None
        nothing = torch.zeros((out_features, in_features), dtype=torch.int8)
        static = self.scheme.activations == "static"
        self._set(
            {
                **backend.pack(kernel, nothing),
                "scale": torch.ones(out_features),
                "bias": torch.zeros(out_features) if bias else None,
                "input_scale": torch.tensor(1.0) if static else None,
                "input_zero_point": torch.tensor(0, dtype=torch.int32) if static else None,
            }
        )

    @classmethod
    def from_float(
        cls,
        module: nn.Linear,
        *,
        scheme: Int8 | None = None,
        kernel: str = "windowed",
        activation: str | None = None,
        name: str = "",
    ) -> Linear:
        """Quantize and pack a float or fake-quantized ``nn.Linear``.

        Args:
            module: its recorded mask (buffer ``weight_mask``) is applied; its own fake-quant
                scheme, with the calibrated ranges, goes before ``scheme``.
            scheme: for a float module; only dynamic activations, since nothing is calibrated.
            name: the module's name, for error messages.

        Raises:
            ValueError: no scheme, a static scheme without calibration, or weights that are not
                finite.
        """
        where = f"layer {name!r}" if name else "the layer"
        own = quant_spec(module)
        chosen = own or scheme
        if chosen is None:
            raise ValueError(
                f"{where} is not fake-quantized, so a scheme is needed: pass scheme=Int8()"
            )
        static: dict[str, Tensor | None] = dict.fromkeys(_STATIC)
        if chosen.activations == "static":
            static = {key: module._buffers.get(key) for key in _STATIC}
            # A fake-quantized layer that was never calibrated holds a NaN scale.
            if own is None or static["input_scale"] is None or static["input_scale"].isnan():
                raise ValueError(
                    f"{where} has no calibrated input range, which static activations need: call "
                    "quantize.prepare_ and quantize.calibrate first"
                )
        weight = module.weight.detach().to("cpu", torch.float32)
        if (mask := weight_mask(module)) is not None:
            weight = weight * mask.to("cpu")
        try:
            integers, scale = numerics.quantize_weight(weight)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        bias = module.bias
        layer = cls(
            module.in_features,
            module.out_features,
            bias is not None,
            scheme=chosen,
            kernel=kernel,
            activation=activation,
        )
        layer.set_packed(
            {
                **backend.pack(kernel, integers),
                "scale": scale,
                "bias": None if bias is None else bias.detach().to("cpu", torch.float32),
                **static,
            },
            name=name,
        )
        return layer.train(module.training)

    def set_packed(self, tensors: Mapping[str, Tensor | None], *, name: str = "") -> None:
        """Replace all tensors at once, after validating them; on error nothing changes.

        Args:
            tensors: every buffer of the layer by name; copied.

        Raises:
            ValueError: a tensor is missing, unknown or breaks the format; the message names it.
        """
        where = f"layer {name!r}" if name else "Linear"
        expected = {key for key, value in self._buffers.items() if value is not None}
        given = {key for key, value in tensors.items() if value is not None}
        if given != expected:
            raise ValueError(
                f"{where}: got tensors {sorted(given)}, expected exactly {sorted(expected)}"
            )
        copies = {
            key: None
            if value is None
            else value.detach().clone(memory_format=torch.contiguous_format)
            for key, value in tensors.items()
        }
        try:
            cached = self._make(copies)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        self._set(copies)
        self._cached = cached

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "sparsekd.nn.Linear runs inference only and has no gradient: call the model under "
                "torch.inference_mode(), or train the float model (sparsekd.to_float gives it back)"
            )
        if not ops.can_run_directly(x):
            return self._run_op(x)
        if x.dtype is not torch.float32 or x.dim() == 0 or x.shape[-1] != self.in_features:
            raise self._input_error(x)
        return ops.run(self._handle(), x)

    def int_weight(self) -> Tensor:
        """The quantized weight, int8 [out_features, in_features]."""
        packed = {key: self._buffers[key] for key in backend.KERNELS[self.kernel]}
        return backend.unpack(self.kernel, packed, self.out_features, self.in_features)  # type: ignore[arg-type]

    def weight_dequantized(self) -> Tensor:
        """The weight that the integers stand for, fp32 [out_features, in_features]."""
        return self.int_weight() * self.scale[:, None]

    def to_float(self) -> nn.Linear:
        """A torch layer with the dequantized weight, and a ``weight_mask`` if any weight is zero.

        Rounding stays: the float layer holds q * scale. The activation is not part of it.
        """
        integers = self.int_weight()
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        with torch.no_grad():
            layer.weight.copy_(integers * self.scale[:, None])
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        if (integers == 0).any():
            layer.register_buffer("weight_mask", integers != 0)
        return layer.train(self.training)

    def kept(self) -> int:
        """How many weights are not zero."""
        key = "values" if self.kernel == "windowed" else "panels"
        return int(torch.count_nonzero(self._tensor(key)))

    def packed_bytes(self) -> int:
        """Bytes of all buffers: what the layer takes in memory and in a file."""
        return sum(b.numel() * b.element_size() for b in self._buffers.values() if b is not None)

    def extra_repr(self) -> str:
        total = max(1, self.in_features * self.out_features)
        parts = [
            f"in_features={self.in_features}, out_features={self.out_features}",
            f"bias={self.bias is not None}, kernel={self.kernel}",
            f"int8 {self.scheme.activations}, kept={self.kept() / total:.1%}",
        ]
        if self.activation is not None:
            parts.append(f"activation={self.activation}")
        return ", ".join(parts)

    def _tensor(self, name: str) -> Tensor:
        tensor = self._buffers[name]
        assert tensor is not None  # only optional buffers are None
        return tensor

    def _set(self, tensors: Mapping[str, Tensor | None]) -> None:
        for key, value in tensors.items():
            if key in self._buffers:
                self._buffers[key] = value
            else:
                self.register_buffer(key, value)

    def _make(self, tensors: Mapping[str, Tensor | None]) -> ops.CachedLinear:
        packed = {key: tensors[key] for key in backend.KERNELS[self.kernel]}
        scale = tensors["scale"]
        if scale is None or scale.shape != (self.out_features,):
            came = None if scale is None else tuple(scale.shape)
            raise ValueError(f"scale: shape {came}, expected ({self.out_features},)")
        for key in _STATIC:
            value = tensors[key]
            if value is not None and value.dim() != 0:
                raise ValueError(f"{key}: shape {tuple(value.shape)}, expected a single number")
        handle = backend.packed_linear(
            self.kernel,
            packed,  # type: ignore[arg-type]
            inputs=self.in_features,
            scale=scale,
            bias=tensors["bias"],
            input_scale=tensors["input_scale"],
            input_zero_point=tensors["input_zero_point"],
            activation=self.activation,
        )
        return ops.CachedLinear(handle, (tensors[key] for key in self._buffers))

    def _handle(self) -> LinearS8:
        cached = self._cached
        if cached is None or not cached.is_current(self._buffers.values()):
            try:
                cached = self._cached = self._make(self._buffers)
            except ValueError as error:
                raise ValueError(
                    f"{type(self).__name__}({self.in_features}, {self.out_features}): {error}"
                ) from error
        return cached.handle

    def _run_op(self, x: Tensor) -> Tensor:
        names = backend.KERNELS[self.kernel]
        b = self._buffers
        result: Tensor = ops.linear_op(self.kernel)(
            x,
            *(b[key] for key in names),
            b["scale"],
            b["bias"],
            b["input_scale"],
            b["input_zero_point"],
            self.in_features,
            self.activation or "none",
        )
        return result

    def _input_error(self, x: Tensor) -> Exception:
        where = f"Linear({self.in_features}, {self.out_features})"
        if x.dtype is not torch.float32:
            return TypeError(f"{where}: input of dtype {x.dtype}, expected torch.float32")
        return ValueError(
            f"{where}: input of shape {tuple(x.shape)}, expected (..., {self.in_features})"
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Takes packed tensors of any number of steps, all of them or none."""
        wanted = [key for key, value in self._buffers.items() if value is not None]
        missing = [prefix + key for key in wanted if prefix + key not in state_dict]
        if strict:
            own = {prefix + key for key in wanted}
            unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in own]
        if missing:
            missing_keys += missing
            return
        given: dict[str, Tensor | None] = dict.fromkeys(self._buffers)
        given.update((key, state_dict[prefix + key]) for key in wanted)
        try:
            self.set_packed(given, name=prefix[:-1])
        except ValueError as error:
            error_msgs.append(str(error))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}
