"""What of a file's state is no engine layer, held against the model that it is to fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsekd.convert import LAYERS, EngineLayer
from sparsekd.io._manifest import FileFormatError, Manifest

__all__ = ["check_names", "check_tensor", "check_ties", "split", "take_masks"]

_LISTED = 5  # names in one message


def check_names(expected: Iterable[str], given: Iterable[str]) -> None:
    """Raise unless a file holds exactly the tensors that the model has."""
    missing = sorted(set(expected) - set(given))
    unknown = sorted(set(given) - set(expected))
    if missing or unknown:
        parts = [
            f"{what} {', '.join(map(repr, names[:_LISTED]))}"
            + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
            for what, names in (("the file lacks", missing), ("the model has no", unknown))
            if names
        ]
        raise FileFormatError("; ".join(parts))


def check_tensor(name: str, expected: object, given: Tensor) -> None:
    """Raise unless a tensor of the file fits its place in the model."""
    if not isinstance(expected, Tensor):
        raise ValueError(f"the model's state {name!r} is no tensor, which a file can not hold")
    if is_lazy(expected):
        raise ValueError(f"the model's parameter {name!r} is lazy and has no shape yet")
    if given.dtype != expected.dtype or given.shape != expected.shape:
        raise FileFormatError(
            f"tensor {name!r} is {given.dtype} {tuple(given.shape)} in the file and "
            f"{expected.dtype} {tuple(expected.shape)} in the model"
        )


def check_ties(
    manifest: Manifest, expected: Mapping[str, Tensor], modules: Mapping[str, nn.Module]
) -> None:
    """What the file ties the model must tie, and the other way round."""
    names = [name for name in manifest.tied if name in expected]
    for name, owner in manifest.tied.items():
        if name in expected:
            tied = expected.get(owner) is expected[name]
        else:
            tied = _same_source(name, owner, modules)
        if not tied:
            raise FileFormatError(f"the file ties {name!r} to {owner!r}, the model does not")
    first: dict[int, str] = {}
    for name, value in expected.items():
        owner = first.setdefault(id(value), name)
        if owner != name and name not in names and owner not in names:
            raise FileFormatError(
                f"the model ties {name!r} to {owner!r}, the file holds two tensors"
            )


def _same_source(name: str, owner: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether two tensors of engine layers come from one float tensor of the model."""
    (ours, key), (theirs, other) = split(name), split(owner)
    a, b = modules.get(ours), modules.get(theirs)
    if a is None or b is None or key != other:
        return False
    if a is b:
        return True
    if key.startswith("input_"):
        return False
    source = "bias" if key == "bias" else "weight"
    if isinstance(a, EngineLayer) and isinstance(b, EngineLayer):
        return a._buffers.get(key) is b._buffers.get(key) is not None
    return getattr(a, source, None) is getattr(b, source, 0)


def split(name: str) -> tuple[str, str]:
    """A tensor's name as those of its module and of itself in there."""
    module, _, key = name.rpartition(".")
    return module, key


def take_masks(
    state: dict[str, Tensor], expected: Mapping[str, Tensor], modules: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """Take the masks of pruned torch layers out of a file's state, by name of the layer.

    A fresh architecture has no buffer for them yet.

    Raises:
        FileFormatError: a mask that does not fit its layer.
    """
    masks = {}
    for name in sorted(state.keys() - expected.keys()):
        owner, key = split(name)
        layer, mask = modules.get(owner), state[name]
        if key != "weight_mask" or not isinstance(layer, LAYERS) or is_lazy(layer.weight):
            continue
        shape = tuple(layer.weight.shape)
        if mask.dtype is not torch.bool or tuple(mask.shape) != shape:
            raise FileFormatError(
                f"tensor {name!r} is {mask.dtype} {tuple(mask.shape)} in the file, expected "
                f"torch.bool {shape}"
            )
        masks[owner] = state.pop(name)
    return masks
