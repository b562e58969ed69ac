"""``save``: a model's state and a manifest of its engine layers into one file."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsekd.convert import EngineLayer, FoldedNorm, FusedActivation
from sparsekd.io._atomic import replace_file
from sparsekd.io._container import DTYPES, encode
from sparsekd.io._manifest import LayerEntry, Manifest, entry_of
from sparsekd.io._strict import check_name
from sparsekd.io._tuning import record_of
from sparsekd.modules import weight_mask

__all__ = ["save"]


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write ``model``'s state to one safetensors file; no pickle.

    Engine layers are stored as they are in memory, everything else as in ``state_dict``; masks are
    applied. Tied tensors are stored once. The file appears whole or not at all: it is written
    under a temporary name in the same folder, synced and renamed, so that a kill or a full disk
    leaves the old file. Saving over the file that the model was loaded from is fine.

    Args:
        model: any module; engine layers are named in the manifest.
        path: the file; an existing one is replaced.

    Raises:
        ValueError: a state that is no plain tensor with data, a name that a file may not hold, an
            activation or BatchNorm that runs in a layer outside the model.
        OSError: the file can not be written.

    >>> sparsekd.save(converted, "student.safetensors")
    >>> student = sparsekd.load("student.safetensors", Student())
    """
    layers, tuning = _layers(model), record_of(model)
    tensors, tied = _split_ties(_state(model))

    def manifest(digest: str) -> Manifest:
        return Manifest(
            format="sparsekd",
            version=1,
            sha256=digest,
            layers=layers,
            tied=tied,
            tuning=tuning,
        )

    replace_file(path, encode(tensors, manifest))


def _layers(model: nn.Module) -> dict[str, LayerEntry]:
    """The manifest's entries of all engine layers, shared ones under each of their names."""
    held = {id(module) for module in model.modules()}
    acts: dict[int, str] = {}
    norms: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, FusedActivation):
            what, layer, found = "an activation", module.layer, acts
        elif isinstance(module, FoldedNorm):
            what, layer, found = "a BatchNorm", module.engine, norms
        else:
            continue
        if id(layer) not in held:
            raise ValueError(
                f"{what} at {name!r} was fused into a layer that is no longer in the model; put "
                f"{what} or nn.Identity() there"
            )
        found[id(layer)] = name
    return {
        check_name(name): entry_of(module, acts.get(id(module)), norms.get(id(module)))
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, EngineLayer)
    }


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The state by name: the very parameters and buffers, masked weights apart."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        _check(name, value)
        state[name] = value
    masked: dict[int, Tensor] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        mask, key = weight_mask(module), f"{name}.weight" if name else "weight"
        if mask is not None and key in state:
            weight = state[key]
            if id(weight) not in masked:
                masked[id(weight)] = torch.where(mask, weight.detach(), 0)
            state[key] = masked[id(weight)]
    return state


def _check(name: str, value: object) -> None:
    """Raise unless a file can hold this."""
    check_name(name)
    if not isinstance(value, Tensor):
        raise ValueError(
            f"state {name!r} is a {type(value).__name__}; a file holds tensors only, never pickles"
        )
    if value.is_meta:
        raise ValueError(f"tensor {name!r} is on 'meta' and has no data to save")
    if value.layout is not torch.strided or value.is_quantized:
        raise ValueError(f"tensor {name!r} is not a plain dense tensor ({value.layout})")
    if value.dtype not in DTYPES.values():
        raise ValueError(f"tensor {name!r} has dtype {value.dtype}, which a file can not hold")


def _split_ties(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors to be stored, further name -> stored name), the first name of each stored."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    stored: dict[str, Tensor] = {}
    memories: set[int] = set()
    for name, tensor in state.items():
        owner = first.setdefault(id(tensor), name)
        if owner != name:
            tied[name] = owner
            continue
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        # Different views of one memory are no tie: each is stored with its own values.
        stored[name] = plain.clone() if memory in memories else plain
        memories.add(memory)
    return stored, tied
