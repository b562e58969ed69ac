"""``load``: engine layers and state out of one file into a float architecture, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparsekd.convert import (
    EngineLayer,
    FoldedNorm,
    FusedActivation,
    activation_name,
    engine_of,
    refuse_hooks,
    sizes_of,
    substitute,
)
from sparsekd.flow import FoldedBatchNorm, holders
from sparsekd.io._atomic import read_regular
from sparsekd.io._container import decode
from sparsekd.io._manifest import KINDS, FileFormatError, LayerEntry, Manifest, build, sizes_in
from sparsekd.io._state import check_names, check_tensor, check_ties, split, take_masks
from sparsekd.io._tuning import chosen_for_here
from sparsekd.nn import Conv2d

__all__ = ["load"]

_COUNTED = {"windowed": ("values", "positions"), "csr": ("columns", "values")}


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    check_hash: bool = True,
    example_inputs: object = None,
) -> nn.Module:
    """Fill ``model`` from a file that :func:`save` wrote.

    The layers that the manifest names become engine layers, activations that run inside them
    become identities, and everything else is loaded strictly. Nothing of the file is executed and
    nothing of it is referred to afterwards. On any error ``model`` is as it was.

    Args:
        path: the file, untrusted.
        model: the float architecture, of any weights; may be on "meta", where its parameters then
            become real ones. Parameters are replaced, not overwritten: make optimizers afterwards.
        check_hash: compare the data's SHA-256. Without it a damaged file may load with other
            numbers, but still only runs inside its own buffers.
        example_inputs: as for :func:`sparsekd.convert`. Where the file's kernels were not measured,
            or on another processor, with another instruction set or number of threads, they are
            measured again, here, as :func:`sparsekd.tune` does, and the weights repacked. Without
            example inputs the file's kernels stay, with a warning if they were measured elsewhere.

    Returns:
        ``model`` in eval mode, with a ``sparsekd_report``; the engine layer itself where ``model``
        is a lone layer.

    Raises:
        FileFormatError: (a ValueError) the file is damaged, of another version, or does not fit
            the model; the message names the tensor, layer or field.
        ValueError: ``path`` is no regular file, or ``model`` can not be loaded into.
        OSError: the file can not be read.
        RuntimeError: the model, which is loaded by then, fails on ``example_inputs``.

    >>> with torch.device("meta"): student = Student()
    >>> student = sparsekd.load("student.safetensors", student)
    """
    content = read_regular(path)
    try:
        manifest, tensors = decode(content, check_hash=check_hash)
        del content  # the tensors are copies; do not hold the bytes twice
        plan = _plan(manifest, _expand(manifest, tensors), model)
    except FileFormatError as error:
        raise FileFormatError(f"{os.fspath(path)!r}: {error}") from error
    loaded = _commit(model, plan)
    tuning = None if manifest.tuning is None else manifest.tuning.report()
    return chosen_for_here(loaded, tuning, example_inputs)


@dataclass
class _Plan:
    """Everything that a load will change, built and checked before the first change.

    Attributes:
        engines: engine layer by id of the layer that it replaces.
        identities: what replaces the activations and BatchNorms that run inside them, likewise.
        state: the rest, by its name in the model's ``state_dict``.
        masks: masks of float layers that the model has none for, by name of the layer.
        replaced: prefixes of the names that belong to replaced layers.
    """

    engines: dict[int, EngineLayer] = field(default_factory=dict)
    identities: dict[int, FusedActivation | FoldedNorm] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()


def _expand(manifest: Manifest, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All names with their tensors, tied ones with the very same one.

    Raises:
        FileFormatError: a tie from a name that is stored, or to one that is not.
    """
    for name, owner in manifest.tied.items():
        if name in tensors:
            raise FileFormatError(f"tensor {name!r} is stored and also tied to {owner!r}")
        if owner not in tensors:
            raise FileFormatError(f"tensor {name!r} is tied to {owner!r}, which is not stored")
    return tensors | {name: tensors[owner] for name, owner in manifest.tied.items()}


def _plan(manifest: Manifest, tensors: dict[str, Tensor], model: nn.Module) -> _Plan:
    modules = dict(model.named_modules(remove_duplicate=False))
    norms = (e.norm_module for e in manifest.layers.values() if e.norm_module is not None)
    gone = dict.fromkeys([*manifest.layers, *norms])
    plan = _Plan(replaced=tuple(f"{name}." if name else "" for name in gone))
    for name in () if manifest.tuning is None else manifest.tuning.layers:
        if name not in modules or engine_of(modules[name]) is None:
            raise FileFormatError(f"the file's tuning names {name!r}, no layer of the model")
    _plan_layers(manifest, tensors, modules, plan)
    places = holders(model)
    _plan_activations(manifest, modules, places, plan)
    _plan_norms(manifest, modules, places, plan)
    expected = {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if not name.startswith(plan.replaced)
    }
    plan.state = {n: t for n, t in tensors.items() if not n.startswith(plan.replaced)}
    plan.masks = take_masks(plan.state, expected, modules)
    check_names(expected, plan.state)
    for name, value in expected.items():
        check_tensor(name, value, plan.state[name])
    check_ties(manifest, expected, modules)
    _check_meta(model, set(map(id, expected.values())), plan)
    _share(manifest, modules, plan)
    _place(expected, plan)
    return plan


def _plan_layers(
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    plan: _Plan,
) -> None:
    """Build the engine layers, one for each module however many names it has."""
    entries: dict[int, tuple[str, LayerEntry]] = {}
    for name, entry in manifest.layers.items():
        layer = _float_layer(name, entry, modules)
        first, known = entries.setdefault(id(layer), (name, entry))
        if known != entry:
            raise FileFormatError(f"{first!r} and {name!r} are one layer, described differently")
        engine = _engine(name, entry, tensors)
        plan.engines.setdefault(id(layer), engine)
    refuse_hooks({name: modules[name] for name in manifest.layers})
    for name, module in modules.items():
        if id(module) in entries and name not in manifest.layers:
            raise FileFormatError(
                f"layer {name!r} is the same module as {entries[id(module)][0]!r} in the model, "
                "but the file names only one of them"
            )


def _float_layer(name: str, entry: LayerEntry, modules: Mapping[str, nn.Module]) -> nn.Module:
    """The model's layer of this name, of the entry's kind and sizes; may be an engine layer."""
    layer, kind = modules.get(name), KINDS[entry.kind]
    if layer is None or engine_of(layer) is not kind:
        what = "not in the model" if layer is None else f"a {type(layer).__name__} in the model"
        raise FileFormatError(
            f"layer {name!r} of the file is {what}, expected an nn.{kind.__name__}"
        )
    ours = {**sizes_of(layer), "bias": getattr(layer, "bias", None) is not None}
    theirs = {**sizes_in(entry), "bias": entry.bias}
    if entry.norm_module is not None:
        ours["bias"] = True  # a BatchNorm gives one to a layer that had none
    other = [key for key in ours if ours[key] != theirs[key]]
    if other:
        raise FileFormatError(
            f"layer {name!r} has {_listed(theirs, other)} in the file and {_listed(ours, other)} "
            "in the model"
        )
    return layer


def _listed(sizes: Mapping[str, object], keys: Iterable[str]) -> str:
    return ", ".join(f"{key}={sizes[key]}" for key in keys)


def _engine(name: str, entry: LayerEntry, tensors: Mapping[str, Tensor]) -> EngineLayer:
    """A filled engine layer; its own validation refuses malformed arrays."""
    prefix = f"{name}." if name else ""
    state = {
        key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)
    }
    try:
        engine = build(entry)
    except ValueError as error:
        raise FileFormatError(f"layer {name!r}: {error}") from error
    expected = engine.state_dict()
    expected |= {key: t for key, t in engine.optional_tensors().items() if key in state}
    check_names(
        {prefix + key: value for key, value in expected.items()},
        {prefix + key: value for key, value in state.items()},
    )
    for key, value in expected.items():
        given = state[key]
        if given.dtype != value.dtype or given.dim() != value.dim():
            raise FileFormatError(
                f"tensor {prefix + key!r} is {given.dtype} with {given.dim()} dimensions, "
                f"expected {value.dtype} with {value.dim()}"
            )
        # How many weights are kept is up to the file, all other sizes are the layer's.
        fixed = 1 if key in _COUNTED.get(entry.kernel, ()) else 0
        if given.shape[fixed:] != value.shape[fixed:]:
            raise FileFormatError(
                f"layer {name!r}: {key}: shape {tuple(given.shape)}, expected "
                f"{('any', *value.shape[1:]) if fixed else tuple(value.shape)}"
            )
    try:
        engine.set_packed({**dict.fromkeys(engine._buffers), **state}, name=name)
    except ValueError as error:
        raise FileFormatError(str(error)) from error
    return engine.eval()


def _plan_activations(
    manifest: Manifest,
    modules: Mapping[str, nn.Module],
    places: Mapping[int, list[tuple[nn.Module, str]]],
    plan: _Plan,
) -> None:
    """Plan an identity in the place of each activation that runs inside a layer."""
    for name, entry in manifest.layers.items():
        place = entry.activation_module
        if place is None:
            continue
        found, engine = modules.get(place), plan.engines[id(modules[name])]
        # An engine model may be filled once more.
        original = found.original if isinstance(found, FusedActivation) else found
        if found is None or original is None or activation_name(original) != entry.activation:
            what = "no module"
            if original is not None:
                what = f"{type(original).__name__}({original.extra_repr()})"
            raise FileFormatError(
                f"layer {name!r} runs the {entry.activation} at {place!r}, where the model has "
                f"{what}"
            )
        planned = plan.identities.setdefault(id(found), FusedActivation(original, engine))
        one = isinstance(planned, FusedActivation) and planned.layer is engine
        if not one or len(places.get(id(found), [])) > 1:
            raise FileFormatError(f"the activation at {place!r} serves more than layer {name!r}")


def _plan_norms(
    manifest: Manifest,
    modules: Mapping[str, nn.Module],
    places: Mapping[int, list[tuple[nn.Module, str]]],
    plan: _Plan,
) -> None:
    """Plan an identity in the place of each BatchNorm that was folded into a layer."""
    for name, entry in manifest.layers.items():
        place = entry.norm_module
        if place is None:
            continue
        found, layer = modules.get(place), modules[name]
        if found is None or not _fits_norm(layer, found):
            what = "no module" if found is None else f"{type(found).__name__}({found.extra_repr()})"
            raise FileFormatError(
                f"layer {name!r} holds the BatchNorm at {place!r}, where the model has {what}"
            )
        engine = plan.engines[id(layer)]
        planned = plan.identities.setdefault(id(found), FoldedNorm.of(found, name, engine))
        one = isinstance(planned, FoldedNorm) and planned.engine is engine
        if not one or len(places.get(id(found), [])) > 1:
            raise FileFormatError(f"the BatchNorm at {place!r} serves more than layer {name!r}")
        refuse_hooks({place: found})


def _fits_norm(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether this is, or was, a BatchNorm over the outputs of the layer."""
    kind = norm.kind if isinstance(norm, FoldedBatchNorm) else type(norm).__name__
    usual = "BatchNorm2d" if engine_of(layer) is Conv2d else "BatchNorm1d"
    sizes = sizes_of(layer)
    outputs = sizes.get("out_features", sizes.get("out_channels"))
    return kind in (usual, "SyncBatchNorm") and getattr(norm, "num_features", None) == outputs


def _check_meta(model: nn.Module, covered: set[int], plan: _Plan) -> None:
    """Raise for tensors on "meta" that the file does not fill."""
    for name, module in model.named_modules():
        if id(module) in plan.engines or id(module) in plan.identities:
            continue
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.is_meta and id(tensor) not in covered:
                raise ValueError(
                    f"{f'{name}.{key}' if name else key!r} is on 'meta' and not part of the "
                    "state (a non-persistent buffer?), so no file can fill it; build the model "
                    "on the CPU"
                )


def _share(manifest: Manifest, modules: Mapping[str, nn.Module], plan: _Plan) -> None:
    """Let tied engine layers hold the very same buffers again."""
    for name, owner in manifest.tied.items():
        (ours, key), (theirs, _) = split(name), split(owner)
        if ours in manifest.layers and theirs in manifest.layers:
            a, b = plan.engines[id(modules[ours])], plan.engines[id(modules[theirs])]
            a._buffers[key] = b._buffers[key]


def _place(expected: Mapping[str, Tensor], plan: _Plan) -> None:
    """Make the tensors what the model will hold: on its devices, tied ones once."""
    made: dict[int, Tensor] = {}
    for name, value in expected.items():
        if id(value) not in made:
            tensor = plan.state[name]
            tensor = tensor.clone() if value.is_meta else tensor.to(value.device, copy=True)
            if isinstance(value, nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=value.requires_grad)
            made[id(value)] = tensor
        plan.state[name] = made[id(value)]


def _commit(model: nn.Module, plan: _Plan) -> nn.Module:
    """Change the model, or put it back as it was."""
    if id(model) in plan.engines:
        return plan.engines[id(model)]
    before = [(module, [dict(part) for part in _parts(module)]) for module in model.modules()]
    new: dict[int, nn.Module] = {**plan.engines, **plan.identities}
    # While the rest is loaded, strictly, nothing stands where these will be.
    gaps = {key: nn.Identity() for key in new}
    try:
        substitute(model, gaps, inplace=True)
        model.load_state_dict(plan.state, strict=True, assign=True)
        for name, mask in plan.masks.items():
            layer: Any = model.get_submodule(name)
            layer.register_buffer("weight_mask", mask.to(layer.weight.device))
        substitute(model, {id(gaps[key]): module for key, module in new.items()}, inplace=True)
    except BaseException:
        for module, parts in before:
            for now, then in zip(_parts(module), parts, strict=True):
                now.clear()
                now.update(then)
        raise
    return model.eval()


def _parts(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return (module._parameters, module._buffers, module._modules)
