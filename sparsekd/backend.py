"""The door to the compiled engine: the only module that imports ``sparsekd._native``.

Instruction sets, in rising order: ``scalar``, ``avx2``, ``avx512``, ``avx512_vnni``,
``avx512_vbmi``. The best that the CPU has is chosen at first use; ``SPARSEKD_ISA`` or
:func:`set_isa` force one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch  # before the extension: it shares the OpenMP runtime that torch has loaded
from torch import Tensor

from sparsekd.spec import Bf16, Fp32, Int8, Scheme

__all__ = [
    "FORMATS",
    "KERNELS",
    "ConvGeometry",
    "Format",
    "LayerSettings",
    "NativeMissingError",
    "available_isas",
    "cheaper_window",
    "check_binary",
    "format_of",
    "info",
    "isa",
    "known_isas",
    "make_layer",
    "num_threads",
    "pack",
    "require",
    "set_isa",
    "unpack",
]


@dataclass(frozen=True)
class Format:
    """How a packed weight is stored.

    Attributes:
        dtype: "s8", "f32" or "bf16"; with the kernel it names packers, ops and handles.
        tensors: the names of its tensors, in the order of the file (docs/formats.md).
        optional: further ones, which a weight may lack.
    """

    kernel: str
    dtype: str
    tensors: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as "windowed_s8"."""
        return f"{self.kernel}_{self.dtype}"


_WINDOWED = ("values", "positions", "steps", "step_ptr")
_ORDER = ("order",)
_CSR = ("row_ptr", "columns", "values")

#: For each scheme the formats by kernel name. CSR serves Linear and 1x1 convolutions, depthwise the
#: convolutions in which each channel is a group of its own.
FORMATS: Mapping[type[Scheme], Mapping[str, Format]] = {
    Int8: {
        "windowed": Format("windowed", "s8", _WINDOWED, _ORDER),
        "dense": Format("dense", "s8", ("panels",)),
        "depthwise": Format("depthwise", "s8", ("values",)),
    },
    Fp32: {
        "windowed": Format("windowed", "f32", _WINDOWED, _ORDER),
        "csr": Format("csr", "f32", _CSR),
        "depthwise": Format("depthwise", "f32", ("values",)),
    },
    Bf16: {"windowed": Format("windowed", "bf16", _WINDOWED, _ORDER)},
}

#: The int8 kernels of a Linear.
KERNELS = ("windowed", "dense")

_loaded: ModuleType | None = None


class NativeMissingError(ImportError):
    """The compiled part of sparsekd can not be loaded; the message says why and what to do."""


def require() -> Any:
    """The compiled extension.

    Raises:
        NativeMissingError: it can not be imported.
    """
    global _loaded
    if _loaded is None:
        try:
            _loaded = importlib.import_module("sparsekd._native")
        except ImportError as error:
            raise NativeMissingError(
                f"the compiled part of sparsekd can not be loaded ({error}); distill, prune and "
                "quantize work without it, the engine does not: build it with "
                "'pip install .' in the source folder (needs GCC or Clang on Linux)"
            ) from error
    return _loaded


def isa() -> str:
    """The instruction set in use, such as ``"avx512_vbmi"``.

    Raises:
        ValueError: SPARSEKD_ISA names an unknown or unavailable one.
    """
    return str(require().isa())


def available_isas() -> tuple[str, ...]:
    """The instruction sets that this CPU can run, best first."""
    return tuple(require().available_isas())


def known_isas() -> tuple[str, ...]:
    """All instruction sets that this build contains, best first."""
    return tuple(require().known_isas())


def set_isa(name: str | None) -> None:
    """Force an instruction set for the whole process; None goes back to the automatic choice.

    Raises:
        ValueError: the name is unknown or not available here; the message lists the choices.
    """
    require().set_isa(name or "")


def num_threads() -> int:
    """The threads that an engine call uses: torch's setting."""
    return torch.get_num_threads()


def check_binary() -> Path:
    """The self-test program that was installed with the package.

    Raises:
        NativeMissingError: it is not there.
    """
    places = [Path(__file__).parent, Path(str(require().__file__)).parent]
    for folder in places:
        if (path := folder / "bin" / "skd-check").is_file():
            return path
    raise NativeMissingError(
        f"the self-test program skd-check is missing from {places[-1] / 'bin'}; "
        "install the package again with 'pip install .'"
    )


def info() -> dict[str, Any]:
    """Facts about the compiled part, for reports: compiler, source hash, CPU features, OpenMP."""
    native = require()
    return {
        "compiler": f"GCC {native.compiler}",
        "source_hash": native.source_hash,
        "cpu_features": list(native.cpu_features()),
        "isa": native.isa(),
        "available_isas": list(native.available_isas()),
        "known_isas": list(native.known_isas()),
        "openmp_library": native.openmp_library(),
    }


def format_of(scheme: Scheme, kernel: str) -> Format:
    """The format of a scheme and a kernel name.

    Raises:
        ValueError: the scheme has no such kernel; the message lists those it has.
    """
    formats = FORMATS[type(scheme)]
    if kernel not in formats:
        raise ValueError(
            f"unknown kernel {kernel!r} for {type(scheme).__name__.lower()}; "
            f"choices are: {', '.join(formats)}"
        )
    return formats[kernel]


def pack(fmt: Format, weight: Tensor, groups: int = 1, window: int = 16) -> dict[str, Tensor]:
    """Pack a dense weight.

    Args:
        weight: [outputs, taps, channels of a group] on the CPU; int8 in -127..127 for s8 formats,
            fp32 for the others (bf16 rounds to nearest even).
        window: inputs of a window, for windowed fp32.

    Returns:
        The tensors of the format by name (docs/formats.md); the optional ones that it needs.

    Raises:
        ValueError: wrong dtype or shape, a -128, or a number that is not finite.
    """
    wanted = torch.int8 if fmt.dtype == "s8" else torch.float32
    if weight.dtype is not wanted:
        names = [str(dtype).removeprefix("torch.") for dtype in (weight.dtype, wanted)]
        raise ValueError(f"weight: dtype {names[0]}, expected {names[1]}")
    if weight.dim() != 3:
        raise ValueError(
            f"weight: shape {tuple(weight.shape)}, expected (outputs, taps, channels of a group)"
        )
    native, dense = require(), _array("weight", weight.detach().contiguous())
    if fmt.kernel == "depthwise":
        if weight.shape[2] != 1 or groups != weight.shape[0]:
            raise ValueError(
                f"a depthwise weight has one channel a group, got {groups} groups of "
                f"{weight.shape[2]} channels"
            )
        return {"values": weight.detach()[:, :, 0].t().contiguous()}
    if fmt.kernel == "windowed":
        windows = (window,) if fmt.dtype == "f32" else ()
        pack_windowed = getattr(native, f"pack_{fmt.name}")
        arrays = pack_windowed(_flat(dense), *windows, weight.shape[1], groups)
    elif fmt.name == "csr_f32":
        arrays = native.pack_csr_f32(_flat(dense))
    else:
        arrays = getattr(native, f"pack_conv_{fmt.name}")(dense, groups)
    named = zip((*fmt.tensors, *fmt.optional), _tuple(arrays), strict=True)
    return {name: _stored(name, array) for name, array in named if array is not None}


def cheaper_window(weight: Tensor, geometry: ConvGeometry | None = None) -> int:
    """16 or 32: the window of windowed fp32 that needs less time for this weight's zeros.

    A step in windows of 32 reads two registers and costs about 1.25 of one in windows of 16.
    """
    dense = _flat(_array("weight", weight.detach().contiguous()))
    fmt, taps, groups = FORMATS[Fp32]["windowed"], (weight.shape[1],) * 2, 1
    if geometry is not None:
        cut = [geometry.cut_for(fmt, window).taps for window in (16, 32)]
        taps, groups = (cut[0], cut[1]), geometry.groups
    return int(require().cheaper_f32_window(dense, taps, groups))


def unpack(
    fmt: Format,
    packed: Mapping[str, Tensor | None],
    shape: tuple[int, int, int],
    groups: int = 1,
    window: int = 16,
) -> Tensor:
    """The dense weight of packed tensors, shape [outputs, taps, channels]: inverse of :func:`pack`.

    int8 for s8 formats, fp32 for the others.
    """
    native, (outputs, taps, channels) = require(), shape
    if fmt.kernel == "depthwise":
        values = packed["values"]
        assert values is not None  # not optional
        return values.t().contiguous()[:, :, None]
    arrays = _weight_arrays(fmt, packed)
    if fmt.kernel == "windowed":
        windows = (window,) if fmt.dtype == "f32" else ()
        unpack_windowed = getattr(native, f"unpack_{fmt.name}")
        dense = unpack_windowed(*arrays, *windows, outputs, channels, taps, groups)
        if fmt.dtype == "bf16":
            bits = torch.from_numpy(dense.view("int16"))
            dense = bits.view(torch.bfloat16).float().numpy()
    elif fmt.name == "csr_f32":
        dense = native.unpack_csr_f32(*arrays, channels)
    else:
        dense = getattr(native, f"unpack_conv_{fmt.name}")(*arrays, outputs, channels, taps, groups)
    return torch.from_numpy(dense).reshape(shape)


def make_layer(fmt: Format, tensors: Mapping[str, Tensor | None], settings: LayerSettings) -> Any:
    """Validate packed tensors and copy them into a handle that can run.

    Args:
        tensors: those of the format; ``bias`` or None; for s8 also ``scale`` and, for static
            activations, ``input_scale`` and ``input_zero_point``.

    Raises:
        ValueError: a tensor breaks the format; the message names it.
    """
    native, activation = require(), settings.activation or "none"
    weights = _weight_arrays(fmt, tensors)
    scale = _array("scale", tensors["scale"]) if fmt.dtype == "s8" else None
    bias = None if tensors["bias"] is None else _array("bias", tensors["bias"])
    conv = settings.geometry
    if fmt.dtype == "s8":
        input_scale, zero_point = tensors["input_scale"], tensors["input_zero_point"]
        quantization = (
            scale,
            bias,
            None if input_scale is None else float(input_scale),
            128 if zero_point is None else int(zero_point),
            activation,
        )
        if conv is None:
            make = getattr(native.LinearS8, fmt.kernel)
            return make(*weights, settings.inputs, *quantization)
        return getattr(native.Conv2dS8, fmt.kernel)(*weights, conv.native(), *quantization)
    if fmt.kernel == "csr":
        if weights[0].shape != (settings.outputs + 1,):
            raise ValueError(
                f"row_ptr: shape {weights[0].shape}, expected ({settings.outputs + 1},)"
            )
        return native.LinearCsr.from_parts(*weights, settings.inputs, bias, activation)
    window = (settings.window,) if fmt.name == "windowed_f32" else ()
    if conv is None:
        make = getattr(native.LinearFloat, fmt.name)
        return make(*weights, *window, settings.outputs, settings.inputs, bias, activation)
    make = getattr(native.Conv2dFloat, fmt.name if fmt.kernel == "windowed" else fmt.kernel)
    return make(*weights, *window, conv.native(), bias, activation)


@dataclass(frozen=True)
class ConvGeometry:
    """The fixed sizes of a convolution; pairs are (height, width).

    Attributes:
        rows: what the weight is cut along: False, its taps are the pixels under the kernel, each
            with its channels; True, its taps are the kernel's rows, each with the channels of all
            of its pixels, which lie side by side in an NHWC image (docs/formats.md).
    """

    channels: tuple[int, int]  # in, out
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, bottom, left, right
    groups: int
    rows: bool = False

    def native(self) -> Any:
        """The extension's own object. Raises ValueError on absurd values."""
        return require().ConvGeometry(
            self.channels,
            self.kernel,
            self.stride,
            self.dilation,
            self.padding,
            self.groups,
            self.rows,
        )

    @property
    def taps(self) -> int:
        """Taps that the weight is cut into."""
        return self.kernel[0] * (1 if self.rows else self.kernel[1])

    @property
    def tap_inputs(self) -> int:
        """Inputs of a tap that an output reads."""
        return self.channels[0] // self.groups * (self.kernel[1] if self.rows else 1)

    def cut_for(self, fmt: Format, window: int = 16) -> ConvGeometry:
        """This geometry with its weight cut along rows where that fills the kernel's units better.

        A unit is what a kernel takes at once: a window, or the four inputs of a dense step. The
        sizes alone decide, so that all weights of a layer have one form.

        Args:
            window: inputs of a window, for windowed fp32.
        """
        if fmt.kernel not in ("windowed", "dense") or not self.native().can_have_rows():
            return replace(self, rows=False)
        sizes = {"s8": 64, "f32": window, "bf16": 32}
        unit = 4 if fmt.kernel == "dense" else sizes[fmt.dtype]
        pixels, rows = replace(self, rows=False), replace(self, rows=True)
        units = [g.taps * -(-g.tap_inputs // unit) for g in (pixels, rows)]
        return rows if units[1] < units[0] else pixels


@dataclass(frozen=True)
class LayerSettings:
    """What a layer is, apart from its tensors. ``geometry`` None stands for a Linear."""

    inputs: int
    outputs: int
    activation: str | None = None
    window: int = 16
    geometry: ConvGeometry | None = None


def _stored(name: str, array: Any) -> Tensor:
    """A tensor of the dtype that a file holds: bf16 values, words of positions as signed ints."""
    if array.dtype.name in ("uint16", "uint32"):
        signed = torch.from_numpy(array.view(array.dtype.name.removeprefix("u")))
        return signed.view(torch.bfloat16) if name == "values" else signed
    return torch.from_numpy(array)


def _array(name: str, tensor: Tensor | None) -> Any:
    if tensor is None:
        raise ValueError(f"{name}: missing")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name}: on device {tensor.device}, expected the CPU")
    try:
        return tensor.detach().numpy()
    except TypeError as error:  # a dtype that numpy does not have
        raise ValueError(f"{name}: dtype {tensor.dtype} ({error})") from error


def _weight_array(fmt: Format, name: str, tensor: Tensor | None) -> Any:
    """A tensor of a format as the extension reads it: bits of bf16 and words of positions unsigned.

    Tensors and files have no unsigned words, and numpy has no bf16.
    """
    stored = None
    if fmt.dtype == "bf16" and name in ("values", "positions"):
        stored = torch.bfloat16 if name == "values" else torch.int16
    elif fmt.name == "windowed_f32" and name == "positions":
        stored = torch.int32
    if stored is None or tensor is None:
        return _array(name, tensor)
    if tensor.dtype is not stored:
        raise ValueError(f"{name}: dtype {tensor.dtype}, expected {stored}")
    signed = _array(name, tensor.view(torch.int16) if stored is torch.bfloat16 else tensor)
    return signed.view(f"u{signed.dtype}")


def _weight_arrays(fmt: Format, tensors: Mapping[str, Tensor | None]) -> list[Any]:
    """All tensors of a format for the extension, None for an optional one that is not there."""
    arrays = [_weight_array(fmt, name, tensors[name]) for name in fmt.tensors]
    for name in fmt.optional:
        given = tensors.get(name)
        arrays.append(None if given is None else _array(name, given))
    return arrays


def _flat(array: Any) -> Any:
    """[outputs, taps, channels] as [outputs, taps * channels]."""
    outputs, taps, channels = array.shape
    return array.reshape(outputs, taps * channels)


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
