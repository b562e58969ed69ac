"""What ``sparsekd bench model`` has to know of a model, and where it finds it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

__all__ = ["Arguments", "ModelDefinition", "load_definitions"]

#: The positional arguments of one call.
Arguments = tuple[Tensor, ...]


@dataclass(frozen=True)
class ModelDefinition:
    """A whole model to be measured. Its output is one tensor, fp32 [batch, features].

    Attributes:
        build: gives the float model in eval mode, the same at each call; raises ImportError or
            FileNotFoundError, with the remedy, where something that it needs is missing.
        cases: name of each timed case, such as "8x3x224x224", to its inputs; calls rotate among
            them.
        samples: batches on which models are compared: their outputs, row by row, with those of the
            float model. Engines that need calibration get them too.
        note: what has to stand beside every figure of this model.
        not_pruned: names of layers that pruning leaves alone.
        images: inputs are images, so both memory formats are measured.
        export_form: makes of the float model the form that is fastest as ONNX; None where that is
            the model itself.
        dynamic: engines quantize activations at run time, as is the custom for encoders; static
            int8 is measured as well.
        architecture: gives the model with any weights, for its shapes; None: ``build``.
    """

    build: Callable[[], nn.Module]
    cases: Mapping[str, Callable[[], list[Arguments]]]
    samples: Callable[[], list[Arguments]]
    note: str = ""
    not_pruned: tuple[str, ...] = field(default=())
    images: bool = False
    export_form: Callable[[nn.Module], nn.Module] | None = None
    dynamic: bool = False
    architecture: Callable[[], nn.Module] | None = None


def load_definitions(folder: str | Path) -> Mapping[str, ModelDefinition]:
    """The ``MODELS`` of a folder of definitions: a Python package that need not be installed.

    Raises:
        FileNotFoundError: the folder is no such package.
        ValueError: it defines no MODELS.

    >>> load_definitions("bench/models")["resnet18"].note
    'random weights: accuracy is not meant, only speed and agreement'
    """
    start = Path(folder, "__init__.py").resolve()
    if not start.is_file():
        raise FileNotFoundError(
            f"no model definitions in {str(folder)!r}: the models of the benchmark are in the "
            "source tree, folder bench/models; run the command there or name the folder"
        )
    models = getattr(_package(start), "MODELS", None)
    if not isinstance(models, Mapping) or not models:
        raise ValueError(f"{str(folder)!r} defines no MODELS, a mapping of names to definitions")
    return models


def _package(start: Path) -> ModuleType:
    """Import a package by its path, once, under a name that nothing else has."""
    name = f"_sparsekd_models_{abs(hash(start))}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(
        name, start, submodule_search_locations=[str(start.parent)]
    )
    assert found is not None  # the file exists and ends in .py
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
