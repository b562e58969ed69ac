"""The engine's operations on tensors: registered with torch, and called directly when eager.

``torch.ops.sparsekd.linear_windowed_s8``, ``conv2d_dense_s8`` and their kin are what
``torch.compile`` and ``torch.export`` see. In eager mode the dispatcher would cost more than a
small layer takes, so plain CPU tensors go to the compiled handle directly (:mod:`sparsekd.direct`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.weak import WeakTensorKeyDictionary

from sparsekd import backend
from sparsekd.backend import ConvGeometry, Format, LayerSettings
from sparsekd.direct import CachedLayer
from sparsekd.images import (
    QuantizedOutput,
    Residual,
    check_elements,
    check_residual,
    is_channels_last,
)

__all__ = [
    "QuantizedOutput",
    "address_of",
    "as_fp32",
    "check_indirect",
    "conv2d_op",
    "define",
    "linear_op",
    "out_size",
    "run_conv2d",
    "run_linear",
]


def check_indirect(x: object, where: str) -> None:
    """Refuse what the dispatcher can not carry, with a sentence; for the slow path only.

    Raises:
        TypeError: not a tensor, or not a strided one.
        RuntimeError: inside forward-mode differentiation, which would lose the tangent silently.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{where}: input of type {type(x).__name__}, expected a torch.Tensor")
    if x.layout is not torch.strided:
        raise TypeError(f"{where}: input of layout {x.layout}, expected torch.strided")
    if forward_ad._current_level >= 0:
        raise RuntimeError(
            f"{where} runs inference only: forward-mode differentiation (jvp, jacfwd, dual_level) "
            "would get no tangent; differentiate the float model"
        )


def as_fp32(x: Tensor, where: str) -> Tensor:
    """x as fp32: in an autocast region half precision is widened, elsewhere it is an error.

    The engine's arithmetic is its own; autocast only decides what the layers around it produce.

    Raises:
        TypeError: x is not fp32, and no autocast region explains it.
    """
    if x.dtype is torch.float32:
        return x
    if x.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled("cpu"):
        return x.float()
    raise TypeError(f"{where}: input of dtype {x.dtype}, expected torch.float32")


def address_of(x: Tensor) -> int:
    """Where the first number of x lies; 0 for a tensor whose storage has been freed.

    torch adds the offset of a view even to a storage that is gone, which gives a small number.
    """
    address = x.data_ptr()
    return 0 if address < 1 << 32 and x.untyped_storage().data_ptr() == 0 else address


def run_linear(handle: Any, x: Tensor) -> Tensor:
    """y = linear(x) for x fp32 [..., in_features] on the CPU; y fp32 [..., out_features]."""
    *leading, inputs = x.shape
    if not x.is_contiguous():
        x = x.contiguous()
    y = x.new_empty(*leading, handle.outputs)  # spread: a tuple costs 0.35 us more to parse
    rows = x.numel() // inputs if inputs else math.prod(leading)
    handle.forward(address_of(x), rows, y.data_ptr(), torch.get_num_threads())
    return y


def run_conv2d(
    handle: Any,
    geometry: ConvGeometry,
    x: Tensor,
    out: QuantizedOutput | None = None,
    residual: Residual | None = None,
) -> Tensor:
    """y = act(conv2d(x) + residual) for x [batch, channels, height, width] on the CPU.

    x is fp32 in either memory format, or u8 channels_last; y is fp32 in the memory format of x, or,
    with ``out``, u8 channels_last.
    """
    height, width = _out_size(geometry, x)
    check_elements("sparsekd conv2d", x.shape[0], geometry.channels[1], height, width)
    bytes_in = x.dtype is torch.uint8
    nhwc = bytes_in or is_channels_last(x)
    layout = torch.channels_last if nhwc else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    nhwc_out = nhwc or out is not None
    y = torch.empty(
        (x.shape[0], geometry.channels[1], height, width),
        dtype=torch.float32 if out is None else torch.uint8,
        memory_format=torch.channels_last if nhwc_out else torch.contiguous_format,
    )
    scale, zero_point = (1.0, 0) if out is None else out
    added: tuple[Any, ...] = ()
    if residual is not None:
        r, r_scale, r_zero_point = residual
        r_u8 = r.dtype is torch.uint8
        r_nhwc = r_u8 or is_channels_last(r)
        # Held here: a copy must live as long as the call.
        r = r.contiguous(memory_format=torch.channels_last if r_nhwc else torch.contiguous_format)
        added = ((address_of(r), r_u8, r_nhwc, r_scale, r_zero_point),)
    try:
        handle.forward(
            address_of(x),
            bytes_in,
            nhwc,
            tuple(x.shape),
            y.data_ptr(),
            out is not None,
            nhwc_out,
            scale,
            zero_point,
            torch.get_num_threads(),
            *added,
        )
    except ValueError as error:
        raise ValueError(f"sparsekd conv2d: {error}") from error
    return y


def run_pointwise(handle: Any, x: Tensor) -> Tensor:
    """A Linear over the pixels of x, fp32 [batch, channels, height, width]: a 1x1 convolution."""
    rows = x.movedim(1, -1)
    y = run_linear(handle, rows).movedim(-1, 1)
    return y if is_channels_last(x) else y.contiguous()


def out_size(g: ConvGeometry, height: Any, width: Any) -> tuple[Any, Any]:
    """Height and width of the output of images of that size; works on symbolic sizes.

    Below 1 where the kernel reaches past the padded image: then there is no output.
    """
    sizes = []
    for axis, size in enumerate((height, width)):
        room = size + g.padding[2 * axis] + g.padding[2 * axis + 1]
        room -= g.dilation[axis] * (g.kernel[axis] - 1) + 1
        sizes.append(room // g.stride[axis] + 1)
    return sizes[0], sizes[1]


def _out_size(g: ConvGeometry, x: Tensor) -> tuple[Any, Any]:
    height, width = out_size(g, x.shape[2], x.shape[3])
    if height < 1 or width < 1:
        raise ValueError(
            f"sparsekd conv2d: input of shape {tuple(x.shape)} with kernel {g.kernel}: the output "
            "would be empty"
        )
    return height, width


# Handles of the registered ops: the weight's first tensor -> settings -> (its version, handle). The
# value must not hold its own weak key, or it would live forever; hence the version beside it.
_cache: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_library = torch.library.Library("sparsekd", "DEF")  # type: ignore[no-untyped-call]


def _cached_handle(
    fmt: Format, tensors: Mapping[str, Tensor | None], settings: LayerSettings
) -> Any:
    key, *rest = tensors.values()
    assert key is not None  # the weight's first tensor
    version = 0 if key.is_inference() else key._version
    entries: dict[Any, tuple[int, CachedLayer]]
    entries = _cache.setdefault(key, {})  # type: ignore[no-untyped-call]
    known, cached = entries.get((fmt, settings), (-1, None))
    if cached is None or known != version or not cached.is_current(rest):
        cached = CachedLayer(backend.make_layer(fmt, tensors, settings), rest)
        entries[fmt, settings] = (version, cached)
    return cached.handle


def _optional_tensors(fmt: Format) -> tuple[str, ...]:
    layer = ("bias", "input_scale", "input_zero_point") if fmt.dtype == "s8" else ("bias",)
    return (*fmt.optional, *layer)


def tensor_names(fmt: Format) -> tuple[str, ...]:
    """The tensors of a layer in the order of its op: the weight's, [scale], bias, [input_*]."""
    scale = ("scale",) if fmt.dtype == "s8" else ()
    rest = _optional_tensors(fmt)[len(fmt.optional) :]
    return (*fmt.tensors, *fmt.optional, *scale, *rest)


_LINEAR_SETTINGS = "int inputs, int outputs, int window, str activation"
_OUT_SETTINGS = ", float? out_scale=None, int out_zero_point=0"
_RESIDUAL_SETTINGS = (
    ", Tensor? residual=None, float? residual_scale=None, int residual_zero_point=0"
)
_CONV_SETTINGS = (
    "int[2] channels, int[2] kernel, int[2] stride, int[2] dilation, int[4] padding, int groups, "
    "bool rows, int window, str activation"
)


def linear_op(fmt: Format) -> Any:
    """The registered op of a format for Linear."""
    return getattr(torch.ops.sparsekd, f"linear_{fmt.name}").default


def conv2d_op(fmt: Format) -> Any:
    """The registered op of a format for Conv2d.

    ``op(x, *tensors, *conv2d_arguments(settings))`` and, after those, for int8 ``out_scale`` and
    ``out_zero_point`` of a u8 output (x may be u8 too, quantized as the layer's input is), and for
    all but CSR ``residual``, fp32 or u8 of the output's shape, which is added before the
    activation, with ``residual_scale`` and ``residual_zero_point`` if it is u8.
    """
    return getattr(torch.ops.sparsekd, f"conv2d_{fmt.name}").default


def linear_arguments(s: LayerSettings) -> tuple[Any, ...]:
    """The settings of a Linear in the order of its op."""
    return (s.inputs, s.outputs, s.window, s.activation or "none")


def conv2d_arguments(s: LayerSettings) -> tuple[Any, ...]:
    """The settings of a Conv2d in the order of its op."""
    g = s.geometry
    assert g is not None
    sizes = (g.channels, g.kernel, g.stride, g.dilation, g.padding)
    return (*map(list, sizes), g.groups, g.rows, s.window, s.activation or "none")


def _check_dtype(x: Tensor, kind: str, allowed: Sequence[torch.dtype]) -> None:
    if x.dtype not in allowed:
        expected = " or ".join(map(str, allowed))
        raise TypeError(f"sparsekd {kind}: input of dtype {x.dtype}, expected {expected}")


def _check_linear(x: Tensor, inputs: int) -> None:
    _check_dtype(x, "linear", (torch.float32,))
    if x.dim() == 0 or x.shape[-1] != inputs:
        raise ValueError(
            f"sparsekd linear: input of shape {tuple(x.shape)}, expected (..., {inputs})"
        )


def _check_conv(x: Tensor, fmt: Format, channels: int) -> None:
    _check_dtype(
        x, "conv2d", (torch.float32, torch.uint8) if fmt.dtype == "s8" else (torch.float32,)
    )
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(
            f"sparsekd conv2d: input of shape {tuple(x.shape)}, expected "
            f"(batch, {channels}, height, width)"
        )


def _schema(fmt: Format) -> str:
    optional = _optional_tensors(fmt)
    parts = [f"Tensor{'?' if n in optional else ''} {n}" for n in tensor_names(fmt)]
    return ", ".join(["Tensor x", *parts])


def _no_gradient(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            f"sparsekd::{name} runs inference only and has no gradient: call it under "
            "torch.inference_mode(), or train the float model"
        )

    return backward


def define(
    name: str, schema: str, compute: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> None:
    """Register an op of inference: its kernel on the CPU, its fake, and no gradient."""
    _library.define(f"{name}({schema}) -> Tensor")  # type: ignore[no-untyped-call]
    _library.impl(name, compute, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"sparsekd::{name}", fake, lib=_library)
    torch.library.register_autograd(f"sparsekd::{name}", _no_gradient(name), lib=_library)


def _register_linear(fmt: Format) -> None:
    names = tensor_names(fmt)

    def compute(x: Tensor, *args: Any) -> Tensor:
        inputs, outputs, window, activation = args[len(names) :]
        _check_linear(x, inputs)
        tensors = dict(zip(names, args, strict=False))
        settings = LayerSettings(inputs, outputs, activation, window)
        return run_linear(_cached_handle(fmt, tensors, settings), x)

    def fake(x: Tensor, *args: Any) -> Tensor:
        inputs, outputs, _, _ = args[len(names) :]
        _check_linear(x, inputs)
        return x.new_empty((*x.shape[:-1], outputs))

    define(f"linear_{fmt.name}", f"{_schema(fmt)}, {_LINEAR_SETTINGS}", compute, fake)


@dataclasses.dataclass(frozen=True)
class _Endpoints:
    """What a convolution op may be given beside its settings, in the order of its schema."""

    out_scale: float | None = None
    out_zero_point: int = 0
    residual: Tensor | None = None
    residual_scale: float | None = None
    residual_zero_point: int = 0

    def out(self) -> QuantizedOutput | None:
        return None if self.out_scale is None else (self.out_scale, self.out_zero_point)

    def residual_of(self, where: str, g: ConvGeometry, x: Tensor) -> Residual | None:
        """The residual, after a check against the output of x."""
        if self.residual is None:
            return None
        shape = (x.shape[0], g.channels[1], *_out_size(g, x))
        scale, zero_point = self.residual_scale, self.residual_zero_point
        return check_residual(where, self.residual, scale, zero_point, shape)


@functools.lru_cache(maxsize=4096)  # calls with the same few geometries
def _checked_geometry(*sizes: Any) -> ConvGeometry:
    geometry = ConvGeometry(*sizes)
    geometry.native()  # refuses absurd sizes
    return geometry


def _register_conv2d(fmt: Format) -> None:
    names = tensor_names(fmt)
    quantizes = fmt.dtype == "s8"
    where = f"sparsekd::conv2d_{fmt.name}"
    extra = _OUT_SETTINGS if quantizes else ""
    extra += "" if fmt.kernel == "csr" else _RESIDUAL_SETTINGS

    def read(args: tuple[Any, ...]) -> tuple[LayerSettings, _Endpoints]:
        *sizes, groups, rows, window, activation = args[:9]
        rest = args[9:] if quantizes else (None, 0, *args[9:])  # no u8 output
        geometry = _checked_geometry(*map(tuple, sizes), groups, rows)
        channels = geometry.channels
        settings = LayerSettings(channels[0] // groups, channels[1], activation, window, geometry)
        return settings, _Endpoints(*rest)  # the dispatcher leaves out defaults at the end

    def compute(x: Tensor, *args: Any, **rest: Any) -> Tensor:
        settings, ends = read((*args[len(names) :], *rest.values()))
        assert settings.geometry is not None
        _check_conv(x, fmt, settings.geometry.channels[0])
        tensors = dict(zip(names, args, strict=False))
        handle = _cached_handle(fmt, tensors, settings)
        if fmt.kernel == "csr":
            return run_pointwise(handle, x)
        residual = ends.residual_of(where, settings.geometry, x)
        return run_conv2d(handle, settings.geometry, x, ends.out(), residual)

    def fake(x: Tensor, *args: Any, **rest: Any) -> Tensor:
        settings, ends = read((*args[len(names) :], *rest.values()))
        g, out = settings.geometry, ends.out()
        assert g is not None
        _check_conv(x, fmt, g.channels[0])
        ends.residual_of(where, g, x)
        height, width = _out_size(g, x)
        nhwc = out is not None or x.dtype is torch.uint8 or is_channels_last(x)
        return torch.empty(
            (x.shape[0], g.channels[1], height, width),
            dtype=torch.float32 if out is None else torch.uint8,
            device=x.device,
            memory_format=torch.channels_last if nhwc else torch.contiguous_format,
        )

    define(f"conv2d_{fmt.name}", f"{_schema(fmt)}, {_CONV_SETTINGS}{extra}", compute, fake)


for _formats in backend.FORMATS.values():
    for _format in _formats.values():
        if _format.kernel != "depthwise":
            _register_linear(_format)
        _register_conv2d(_format)
