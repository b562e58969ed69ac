"""sparsekd: train it small, run it fast, on the CPU that people already have.

Distill, prune and quantize a PyTorch model; convert it to sparse int8 kernels; verify it against
torch. Names are imported when first used, so that ``import sparsekd`` costs next to nothing.

>>> import sparsekd as skd
>>> skd.prune.prune_(model, skd.prune.NM(8, 32))
>>> fast = skd.convert(model, scheme=skd.quantize.Int8())
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsekd import backend, distill, nn, prune, quantize
    from sparsekd.benchmark import benchmark
    from sparsekd.convert import convert, to_float
    from sparsekd.io import load, save
    from sparsekd.tune import tune
    from sparsekd.verify import verify

__version__: str

#: Public name -> the module that holds it; "" stands for a submodule of the same name.
_HOME = {
    "backend": "",
    "distill": "",
    "nn": "",
    "prune": "",
    "quantize": "",
    "benchmark": "sparsekd.benchmark",
    "convert": "sparsekd.convert",
    "load": "sparsekd.io",
    "save": "sparsekd.io",
    "to_float": "sparsekd.convert",
    "tune": "sparsekd.tune",
    "verify": "sparsekd.verify",
}

__all__ = [
    "__version__",
    "backend",
    "benchmark",
    "convert",
    "distill",
    "load",
    "nn",
    "prune",
    "quantize",
    "save",
    "to_float",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("sparsekd")
        except PackageNotFoundError:  # the source folder on PYTHONPATH, not installed
            value = "0+unknown"
    elif name in _HOME:
        home = _HOME[name]
        module = importlib.import_module(home or f"sparsekd.{name}")
        value = getattr(module, name) if home else module
    else:
        raise AttributeError(f"module 'sparsekd' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)


class _Package(ModuleType):
    """This package: a submodule that shares its name with a function does not hide the function.

    Importing ``sparsekd.convert`` makes Python set the attribute ``convert`` of the package to the
    module, also when something deep inside imports it; ``skd.convert(...)`` must go on working.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and _HOME.get(name)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
