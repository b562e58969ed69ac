"""The door to the compiled engine: the only module that imports ``sparsekd._native``.

Instruction sets, in rising order: ``scalar``, ``avx2``, ``avx512``, ``avx512_vnni``,
``avx512_vbmi``. The best that the CPU has is chosen at first use; ``SPARSEKD_ISA`` or
:func:`set_isa` force one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch  # before the extension: it shares the OpenMP runtime that torch has loaded
from torch import Tensor

if TYPE_CHECKING:
    from sparsekd import _native

__all__ = [
    "KERNELS",
    "NativeMissingError",
    "available_isas",
    "check_binary",
    "info",
    "isa",
    "known_isas",
    "num_threads",
    "pack",
    "packed_linear",
    "require",
    "set_isa",
    "unpack",
]

#: For each int8 kernel the tensors of its packed weight, in the order of the file.
KERNELS: Mapping[str, tuple[str, ...]] = {
    "windowed": ("values", "positions", "steps", "step_ptr"),
    "dense": ("panels",),
}

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


def pack(kernel: str, weight: Tensor) -> dict[str, Tensor]:
    """Pack a dense int8 matrix.

    Args:
        kernel: a key of :data:`KERNELS`.
        weight: int8 [out_features, in_features] on the CPU, -127..127.

    Returns:
        The tensors of the format by name (docs/formats.md).

    Raises:
        ValueError: unknown kernel, wrong dtype or shape, or a -128.
    """
    names = _names(kernel)
    arrays = getattr(require(), f"pack_{kernel}_s8")(weight.detach().contiguous().numpy())
    return dict(zip(names, map(torch.from_numpy, _tuple(arrays)), strict=True))


def unpack(kernel: str, packed: Mapping[str, Tensor], outputs: int, inputs: int) -> Tensor:
    """The dense int8 matrix [outputs, inputs] of packed tensors; the inverse of :func:`pack`."""
    arrays = [_array(name, packed[name]) for name in _names(kernel)]
    return torch.from_numpy(getattr(require(), f"unpack_{kernel}_s8")(*arrays, outputs, inputs))


def packed_linear(
    kernel: str,
    packed: Mapping[str, Tensor],
    *,
    inputs: int,
    scale: Tensor,
    bias: Tensor | None,
    input_scale: Tensor | None,
    input_zero_point: Tensor | None,
    activation: str | None,
) -> _native.LinearS8:
    """Validate packed tensors and copy them into a handle that can run.

    Raises:
        ValueError: a tensor breaks the format; the message names it.
    """
    arrays = [_array(name, packed[name]) for name in _names(kernel)]
    make = getattr(require().LinearS8, kernel)
    handle: _native.LinearS8 = make(
        *arrays,
        inputs,
        _array("scale", scale),
        None if bias is None else _array("bias", bias),
        None if input_scale is None else float(input_scale),
        128 if input_zero_point is None else int(input_zero_point),
        activation or "none",
    )
    return handle


def _names(kernel: str) -> tuple[str, ...]:
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; int8 kernels are: {', '.join(KERNELS)}")
    return KERNELS[kernel]


def _array(name: str, tensor: Tensor) -> Any:
    if tensor.device.type != "cpu":
        raise ValueError(f"{name}: on device {tensor.device}, expected the CPU")
    try:
        return tensor.detach().numpy()
    except TypeError as error:  # a dtype that numpy does not have
        raise ValueError(f"{name}: dtype {tensor.dtype} ({error})") from error


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
