"""What all engine modules share: packed tensors as buffers, and a handle made from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsekd import backend, direct, numerics, ops
from sparsekd.nn._sources import masked_weight, to_taps
from sparsekd.spec import Fp32, Int8, Scheme, scheme_from

__all__ = ["EngineModule"]

_is_traced = torch.compiler.is_dynamo_compiling
_STATIC = {"input_scale": torch.float32, "input_zero_point": torch.int32}


class EngineModule(nn.Module):
    """A layer whose weight is packed for the engine; for inference.

    Attributes:
        scheme: the arithmetic: Int8, Fp32 (with its window settled) or Bf16.
        kernel: a kernel of that scheme, such as "windowed".
        activation: applied to the output: None, "relu", "relu6", "gelu" (the erf form),
            "silu" or "hardswish".
    """

    scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def __init__(
        self,
        settings: backend.LayerSettings,
        weight_shape: tuple[int, int, int],
        bias: bool,
        scheme: Scheme | None,
        kernel: str,
    ) -> None:
        """``weight_shape`` is [outputs, taps, channels of a group]; the weight starts at zero."""
        super().__init__()
        scheme = Int8() if scheme is None else scheme_from(scheme)
        if settings.activation is not None and settings.activation not in numerics.ACTIVATIONS:
            raise ValueError(
                f"unknown activation {settings.activation!r}; choices are None, "
                + ", ".join(numerics.ACTIVATIONS)
            )
        if isinstance(scheme, Fp32):
            window: Literal[16, 32] = scheme.window or 16
            scheme = Fp32(window if kernel == "windowed" else None)
            settings = dataclasses.replace(settings, window=window)
        self.scheme = scheme
        self.kernel = kernel
        self._format = backend.format_of(scheme, kernel)
        self._settings = settings
        self._weight_shape = weight_shape
        geometry = settings.geometry
        self._groups = 1 if geometry is None else geometry.groups
        # As the format cuts the weight, which is the same memory.
        cut = None if geometry is None else (weight_shape[0], geometry.taps, geometry.tap_inputs)
        self._packed_shape = cut or weight_shape
        self._cached: direct.CachedLayer | None = None
        outputs = weight_shape[0]
        dtype = torch.int8 if isinstance(scheme, Int8) else torch.float32
        try:
            # On the CPU whatever the default device is: "meta" has nothing to pack.
            empty = torch.zeros(weight_shape, dtype=dtype, device="cpu")
        except RuntimeError as error:  # of torch's allocator
            raise MemoryError(
                f"{self._where()}: no memory for its weight of {math.prod(weight_shape):,} numbers"
            ) from error
        nothing = self._pack(empty)
        static = isinstance(scheme, Int8) and scheme.activations == "static"
        zero = torch.tensor(0, dtype=torch.int32, device="cpu")
        initial: dict[str, Tensor | None] = {
            **nothing,
            "scale": torch.ones(outputs, device="cpu"),
            "bias": torch.zeros(outputs, device="cpu") if bias else None,
            "input_scale": torch.tensor(1.0, device="cpu") if static else None,
            "input_zero_point": zero if static else None,
        }
        for name in ops.tensor_names(self._format):
            self.register_buffer(name, initial.get(name))

    @property
    def activation(self) -> str | None:
        return self._settings.activation

    def fill_from(self, module: nn.Module, *, name: str = "") -> None:
        """Take over the weight, mask, bias and calibrated ranges of a torch module of this shape.

        Raises:
            ValueError: weights that are not finite; the message names the layer.
        """
        where = f"layer {name!r}" if name else "the layer"
        weight, bias = masked_weight(module, name), module.bias
        rows, shape = to_taps(weight).shape, self._weight_shape
        if rows != shape:
            sizes = ["{} outputs of {} taps and {} channels".format(*s) for s in (rows, shape)]
            raise ValueError(
                f"{where}: weight of shape {tuple(weight.shape)} has {sizes[0]}; the layer's own "
                f"sizes are {sizes[1]}"
            )
        try:
            tensors = self._weight_tensors(weight)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        tensors["bias"] = None
        if isinstance(bias, Tensor):
            tensors["bias"] = bias.detach().to("cpu", torch.float32)
        for key in _STATIC:
            tensors[key] = module._buffers.get(key) if self._is_static() else None
        self.set_packed(tensors, name=name)
        self.train(module.training)

    def set_packed(self, tensors: Mapping[str, Tensor | None], *, name: str = "") -> None:
        """Replace all tensors at once, after validating them; on error nothing changes.

        Args:
            tensors: every buffer of the layer by name; copied. An optional tensor of the format
                may be missing, whatever the layer has now.

        Raises:
            ValueError: a tensor is missing, unknown or breaks the format; the message names it.
        """
        where = f"layer {name!r}" if name else type(self).__name__
        optional = set(self._format.optional)
        expected = {key for key, value in self._buffers.items() if value is not None} - optional
        given = {key for key, value in tensors.items() if value is not None}
        if given - optional != expected:
            raise ValueError(
                f"{where}: got tensors {sorted(given)}, expected exactly {sorted(expected)}"
            )
        try:
            copies = {key: _copy(key, tensors.get(key)) for key in self._buffers}
            cached = self._make(copies)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        self._buffers.update(copies)
        self._cached = cached

    def repacked(
        self, kernel: str, *, window: int | None = None, weight: Tensor | None = None
    ) -> Any:
        """This layer, a new one, with its weight in the format of another kernel of its scheme.

        Integers, scales, bias and input range stay, so an int8 layer gives the same bits.

        Args:
            window: of windowed fp32, 16 or 32; None takes the cheaper one for the weight.
            weight: in place of the own one; shape and dtype as ``packed_weight()`` gives them.

        Raises:
            ValueError: a kernel that the scheme does not have or that does not serve this layer.
        """
        weight = self.packed_weight() if weight is None else weight
        scheme: Scheme = self.scheme
        if isinstance(scheme, Fp32) and kernel == "windowed":
            window = window or backend.cheaper_window(weight, self._settings.geometry)
            scheme = Fp32(16 if window == 16 else 32)
        twin = self._fresh(scheme, kernel)
        weight_names = {*self._format.tensors, *self._format.optional}
        rest = {k: v for k, v in self._buffers.items() if k not in weight_names}
        twin.set_packed({**twin._pack(weight), **rest})
        return twin.train(self.training)

    def _fresh(self, scheme: Scheme, kernel: str) -> EngineModule:
        """A new layer of the same sizes, bias and activation."""
        raise NotImplementedError

    def packed_weight(self) -> Tensor:
        """The stored weight [outputs, taps, channels of a group]: int8, or fp32."""
        packed = backend.unpack(
            self._format, self._buffers, self._packed_shape, self._groups, self._settings.window
        )
        return packed.view(self._weight_shape)

    def kept(self) -> int:
        """How many weights are not zero."""
        key = "panels" if self.kernel == "dense" else "values"
        return int(torch.count_nonzero(self._tensor(key)))

    def efficiency(self) -> float:
        """Kept weights by stored ones: what padding leaves of the kernel's work, 1 without any.

        A dense kernel stores every weight, kept or not.
        """
        key = "panels" if self.kernel == "dense" else "values"
        return self.kept() / max(1, self._tensor(key).numel()) if self.kept() else 1.0

    def optional_tensors(self) -> dict[str, Tensor]:
        """Tensors that a weight of this format may have, as they must look: dtype and shape."""
        shape = (self._weight_shape[0],)
        return {key: torch.zeros(shape, dtype=torch.int32) for key in self._format.optional}

    def packed_bytes(self) -> int:
        """Bytes of all buffers: what the layer takes in memory and in a file."""
        return sum(b.numel() * b.element_size() for b in self._buffers.values() if b is not None)

    def _is_static(self) -> bool:
        return isinstance(self.scheme, Int8) and self.scheme.activations == "static"

    def _pack(self, weight: Tensor) -> dict[str, Tensor]:
        cut = weight.reshape(self._packed_shape)
        return backend.pack(self._format, cut, self._groups, self._settings.window)

    def _weight_tensors(self, weight: Tensor) -> dict[str, Tensor | None]:
        """Quantized and packed, from fp32 [outputs, channels of a group, *kernel]."""
        rows = to_taps(weight)
        if not isinstance(self.scheme, Int8):
            return {**self._pack(rows)}
        integers, scale = numerics.quantize_weight(rows.flatten(1))
        return {**self._pack(integers.view(rows.shape)), "scale": scale}

    def _dequantized(self) -> Tensor:
        """fp32 [outputs, taps, channels of a group]."""
        weight = self.packed_weight()
        return weight * self.scale[:, None, None] if isinstance(self.scheme, Int8) else weight

    def _fill_float(self, layer: Any, weight: Tensor) -> Any:
        """Give a fresh torch layer the weight, the bias and, where weights are zero, a mask."""
        with torch.no_grad():
            layer.weight.copy_(weight)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        if (weight == 0).any():
            layer.register_buffer("weight_mask", weight != 0)
        return layer.train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        # The common case is one native call. torch.compile, which can not look into it, sees a
        # constant here; whatever else has to see the call makes it give None.
        if not _is_traced() and (cached := self._cached) is not None:
            output = cached.call(input, self._buffers)
            if output is not None:
                return output
        return self._forward(input)

    def _forward(self, input: Tensor) -> Tensor:
        """Every call that is not direct, with all checks and errors."""
        raise NotImplementedError

    def _refuse_gradient(self) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"sparsekd.nn.{type(self).__name__} runs inference only and has no gradient: call "
                "the model under torch.inference_mode(), or train the float model "
                "(sparsekd.to_float gives it back)"
            )

    def _describe(self) -> str:
        total = max(1, self._weight_shape[0] * self._weight_shape[1] * self._weight_shape[2])
        kind = type(self.scheme).__name__.lower()
        if isinstance(self.scheme, Int8):
            kind += f" {self.scheme.activations}"
        text = f"bias={self.bias is not None}, kernel={self.kernel}, {kind}, "
        text += f"kept={self.kept() / total:.1%}"
        if self.kernel == "windowed" and (efficiency := self.efficiency()) < 1:
            text += f", efficiency={efficiency:.0%}"
        return text if self.activation is None else f"{text}, activation={self.activation}"

    def _where(self) -> str:
        outputs, _, channels = self._weight_shape
        return f"{type(self).__name__}({channels * self._groups}, {outputs})"

    def _tensor(self, name: str) -> Tensor:
        tensor = self._buffers[name]
        assert tensor is not None  # only optional buffers are None
        return tensor

    def _make(self, tensors: Mapping[str, Tensor | None]) -> direct.CachedLayer:
        outputs = self._weight_shape[0]
        for key in ("scale", "bias"):
            value = tensors.get(key)
            if value is not None and value.shape != (outputs,):
                raise ValueError(f"{key}: shape {tuple(value.shape)}, expected ({outputs},)")
        for key, dtype in _STATIC.items():
            value = tensors.get(key)
            if value is not None and (value.dim() != 0 or value.dtype is not dtype):
                raise ValueError(
                    f"{key}: {value.dtype} of shape {tuple(value.shape)}, expected a single {dtype}"
                )
        handle = backend.make_layer(self._format, tensors, self._settings)
        ordered = tuple(tensors[key] for key in self._buffers)
        return direct.CachedLayer(handle, ordered, self._direct_call(handle, ordered))

    def _direct_call(self, handle: Any, tensors: tuple[Tensor | None, ...]) -> direct.DirectCall:
        return direct.direct_call(handle, tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EngineModule:
        """``model.to(memory_format=...)`` is about images: packed tensors keep their layout."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for key, value in self._buffers.items():
            if value is not None and not value.is_contiguous():
                self._buffers[key] = value.contiguous()
        return self

    def _handle(self) -> Any:
        cached = self._cached
        if cached is None or not cached.is_current(self._buffers.values()):
            try:
                cached = self._cached = self._make(self._buffers)
            except ValueError as error:
                raise ValueError(f"{self._where()}: {error}") from error
        return cached.handle

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
        optional = self._format.optional
        wanted = [
            key
            for key, value in self._buffers.items()
            if (prefix + key in state_dict if key in optional else value is not None)
        ]
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
            self._set_state(given, prefix[:-1])
        except ValueError as error:
            error_msgs.append(str(error))

    def _set_state(self, tensors: Mapping[str, Tensor | None], name: str) -> None:
        """set_packed for the tensors of a state_dict, which may be of an older layer."""
        self.set_packed(tensors, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Parameter):
            raise TypeError(
                f"{type(self).__name__}.{name} can not be a Parameter: engine modules hold buffers "
                "and run inference only"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}


def _copy(key: str, tensor: object) -> Tensor | None:
    if tensor is None:
        return None
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
        came = tensor.layout if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{key}: {came}, expected a strided torch.Tensor")
    return tensor.detach().clone(memory_format=torch.contiguous_format)
