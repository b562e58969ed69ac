"""Pooling and addition of images, u8 or fp32: registered with torch as ``torch.ops.sparsekd.*``.

They stand between convolutions, so that a network can stay in u8 from layer to layer. u8 images are
channels_last and have a scale and a zero point; fp32 images keep their memory format. ::

    max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override,
               scale=None, zero_point=0, out_scale=None, out_zero_point=0)
    global_avg_pool(x, scale=None, zero_point=0, out_scale=None, out_zero_point=0)
    add(a, b, activation="none", a_scale=None, a_zero_point=0, b_scale=None, b_zero_point=0,
        out_scale=None, out_zero_point=0)

A scale goes with each u8 operand; ``out_scale`` asks for a u8 output. A maximum keeps the scale of
its input. ``docs/numerics.md`` defines the arithmetic; all are for inference and have no gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from sparsekd import backend
from sparsekd.images import check_elements, is_channels_last
from sparsekd.ops import address_of, define

__all__: list[str] = []

_Pair = tuple[int, int]
#: Scale and zero point of u8, None for fp32.
_Scale = tuple[float, int] | None


@functools.lru_cache(maxsize=1024)  # calls with the same few geometries
def _geometry(
    where: str, kernel: _Pair, stride: _Pair, padding: _Pair, dilation: _Pair, ceil_mode: bool
) -> Any:
    try:
        return backend.require().PoolGeometry(kernel, stride, padding, dilation, ceil_mode)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _pooled(size: Any, k: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> Any:
    """Outputs along an axis; works on symbolic sizes."""
    room = size + 2 * pad - dilation * (k - 1) - 1
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + pad else count


def _check_images(where: str, x: Tensor) -> None:
    if x.dtype not in (torch.float32, torch.uint8):
        raise TypeError(f"{where}: input of dtype {x.dtype}, expected torch.float32 or torch.uint8")
    if x.dim() != 4 or x.shape[1] < 1:
        raise ValueError(
            f"{where}: input of shape {tuple(x.shape)}, expected (batch, channels, height, width)"
        )


def _check_scale(where: str, name: str, x: Tensor, scale: float | None) -> None:
    if (x.dtype is torch.uint8) != (scale is not None):
        raise ValueError(
            f"{where}: {name} of dtype {x.dtype} with a scale of {scale}; expected a scale for "
            "torch.uint8 and none for torch.float32"
        )


def _data(x: Tensor, scale: _Scale) -> tuple[int, bool, float, int]:
    """A tensor as the extension gets it."""
    return (address_of(x), x.dtype is torch.uint8, *(scale or (1.0, 0)))


def _with_defaults(given: tuple[Any, ...], defaults: tuple[Any, ...]) -> list[Any]:
    """Arguments with the defaults at their end, which the dispatcher leaves out."""
    return [*given, *defaults[len(given) :]]


def _empty_pooled(where: str, x: Tensor, sizes: list[Any], dtype: torch.dtype) -> Tensor:
    height, width = sizes
    if x.shape[2] < 1 or x.shape[3] < 1 or height < 1 or width < 1:
        raise ValueError(f"{where}: input of shape {tuple(x.shape)}: the output would be empty")
    return torch.empty(
        (x.shape[0], x.shape[1], height, width),
        dtype=dtype,
        device=x.device,
        memory_format=_layout_of(x),
    )


def _layout_of(x: Tensor) -> torch.memory_format:
    nhwc = x.dtype is torch.uint8 or is_channels_last(x)
    return torch.channels_last if nhwc else torch.contiguous_format


def _max_out(where: str, x: Tensor, *sizes: Any) -> Tensor:
    kernel, stride, padding, dilation, ceil_mode = sizes
    _check_images(where, x)
    _geometry(where, *map(tuple, sizes[:4]), ceil_mode)
    axes = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    return _empty_pooled(where, x, [_pooled(*axis, ceil_mode) for axis in axes], x.dtype)


def _max_pool2d(x: Tensor, *sizes: Any) -> Tensor:
    where = "sparsekd::max_pool2d"
    y = _max_out(where, x, *sizes)
    check_elements(where, *y.shape)
    geometry = _geometry(where, *map(tuple, sizes[:4]), sizes[4])
    layout = _layout_of(x)
    x = x.contiguous(memory_format=layout)
    nhwc = layout is torch.channels_last
    native, threads = backend.require(), torch.get_num_threads()
    native.max_pool2d(geometry, _data(x, None), _data(y, None), nhwc, tuple(x.shape), threads)
    return y


def _avg_out(where: str, x: Tensor, kernel: Any, stride: Any, padding: Any, *rest: Any) -> Tensor:
    ceil_mode, _, divisor, scale, _, out_scale, _ = _with_defaults(rest, _AVG_DEFAULTS)
    _check_images(where, x)
    _check_scale(where, "input", x, scale)
    if divisor is not None and divisor < 1:
        raise ValueError(f"{where}: divisor_override: {divisor}, expected at least 1")
    if out_scale is not None and x.dtype is not torch.uint8:
        raise ValueError(f"{where}: out_scale with an input of dtype {x.dtype}, expected u8 input")
    axes = zip(x.shape[2:], kernel, stride, padding, (1, 1), strict=True)
    dtype = torch.float32 if out_scale is None else torch.uint8
    return _empty_pooled(where, x, [_pooled(*axis, ceil_mode) for axis in axes], dtype)


_AVG_DEFAULTS = (False, True, None, None, 0, None, 0)


def _average(where: str, x: Tensor, kernel: Any, stride: Any, padding: Any, *rest: Any) -> Tensor:
    ceil_mode, include_pad, divisor, *scales = _with_defaults(rest, _AVG_DEFAULTS)
    scale, zero_point, out_scale, out_zero_point = scales
    geometry = _geometry(where, tuple(kernel), tuple(stride), tuple(padding), (1, 1), ceil_mode)
    y = _avg_out(where, x, kernel, stride, padding, *rest)
    check_elements(where, *y.shape)
    layout = _layout_of(x)
    x = x.contiguous(memory_format=layout)
    source = None if scale is None else (scale, zero_point)
    target = None if out_scale is None else (out_scale, out_zero_point)
    try:
        backend.require().avg_pool2d(
            geometry,
            _data(x, source),
            _data(y, target),
            layout is torch.channels_last,
            tuple(x.shape),
            include_pad,
            divisor or 0,
            torch.get_num_threads(),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return y


def _avg_fake(x: Tensor, kernel: Any, stride: Any, padding: Any, *rest: Any) -> Tensor:
    where = "sparsekd::avg_pool2d"
    _geometry(where, tuple(kernel), tuple(stride), tuple(padding), (1, 1), rest[0])
    return _avg_out(where, x, kernel, stride, padding, *rest)


def _avg_pool2d(x: Tensor, *args: Any) -> Tensor:
    return _average("sparsekd::avg_pool2d", x, *args)


def _global_arguments(where: str, x: Tensor, scales: tuple[Any, ...]) -> tuple[Any, ...]:
    _check_images(where, x)
    return (x.shape[2:], (1, 1), (0, 0), False, True, None, *scales)


def _global_avg_pool(x: Tensor, *scales: Any) -> Tensor:
    where = "sparsekd::global_avg_pool"
    arguments = _global_arguments(where, x, scales)
    _avg_out(where, x[:0], *arguments)  # an empty image is refused as one
    return _average(where, x, *arguments)


def _global_fake(x: Tensor, *scales: Any) -> Tensor:
    where = "sparsekd::global_avg_pool"
    return _avg_out(where, x, *_global_arguments(where, x, scales))


def _add_out(a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    where = "sparsekd::add"
    activation, a_scale, _, b_scale, _, out_scale, _ = _with_defaults(rest, _ADD_DEFAULTS)
    for name, x, scale in (("first", a, a_scale), ("second", b, b_scale)):
        if x.dtype not in (torch.float32, torch.uint8):
            raise TypeError(
                f"{where}: {name} of dtype {x.dtype}, expected torch.float32 or torch.uint8"
            )
        _check_scale(where, name, x, scale)
    if a.shape != b.shape:
        raise ValueError(
            f"{where}: shapes {tuple(a.shape)} and {tuple(b.shape)}, expected equal ones"
        )
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"{where}: unknown activation {activation!r}; choices are {', '.join(_ACTIVATIONS)}"
        )
    dtype = torch.float32 if out_scale is None else torch.uint8
    return torch.empty(a.shape, dtype=dtype, device=a.device, memory_format=_format_of(a))


_ADD_DEFAULTS = ("none", None, 0, None, 0, None, 0)
_ACTIVATIONS = ("none", "relu", "relu6", "gelu", "silu", "hardswish")


def _format_of(a: Tensor) -> torch.memory_format:
    nhwc = a.dim() == 4 and is_channels_last(a)
    return torch.channels_last if nhwc else torch.contiguous_format


def _add(a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    y = _add_out(a, b, *rest)
    activation, *scales = _with_defaults(rest, _ADD_DEFAULTS)
    layout = _format_of(a)
    a, b = a.contiguous(memory_format=layout), b.contiguous(memory_format=layout)
    sides = []
    for x, scale, zero_point in zip((a, b, y), scales[::2], scales[1::2], strict=True):
        sides.append(_data(x, None if scale is None else (scale, zero_point)))
    try:
        backend.require().add(*sides, y.numel(), activation, torch.get_num_threads())
    except ValueError as error:
        raise ValueError(f"sparsekd::add: {error}") from error
    return y


_OUT = "float? out_scale=None, int out_zero_point=0"
_SCALES = f"float? scale=None, int zero_point=0, {_OUT}"
define(
    "max_pool2d",
    "Tensor x, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode",
    _max_pool2d,
    lambda x, *sizes: _max_out("sparsekd::max_pool2d", x, *sizes),
)
define(
    "avg_pool2d",
    "Tensor x, int[2] kernel, int[2] stride, int[2] padding, bool ceil_mode, "
    f"bool count_include_pad, int? divisor_override, {_SCALES}",
    _avg_pool2d,
    _avg_fake,
)
define("global_avg_pool", f"Tensor x, {_SCALES}", _global_avg_pool, _global_fake)
define(
    "add",
    'Tensor a, Tensor b, str activation="none", float? a_scale=None, int a_zero_point=0, '
    f"float? b_scale=None, int b_zero_point=0, {_OUT}",
    _add,
    _add_out,
)
