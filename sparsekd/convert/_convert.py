"""``convert``: puts engine layers where the model's data flow and schemes allow it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from sparsekd.convert._checks import refuse_hooks, refuse_outside_ties, why_torch
from sparsekd.convert._choose import KERNELS, check_kernel, choose
from sparsekd.convert._fuse import Chains, activation_name, folded_twin, read_chains
from sparsekd.convert._kinds import LAYERS, EngineLayer, TorchLayer, engine_of
from sparsekd.convert._restore import FoldedNorm, FusedActivation, substitute
from sparsekd.convert._rows import report_of
from sparsekd.convert._sources import plain_layers, view_of
from sparsekd.convert._ties import share_ties
from sparsekd.flow import FoldedBatchNorm, foreign_hooks, weight_readers
from sparsekd.modules import Selector, quant_spec, select
from sparsekd.spec import Bf16, Fp32, Int8, Scheme

__all__ = ["KERNELS", "convert"]

_SCHEMES: dict[str, Scheme | None] = {
    "auto": None,
    "int8": Int8(),
    "int8:static": Int8("static"),
    "fp32": Fp32(),
    "bf16": Bf16(),
}


@dataclass
class _Plan:
    """What conversion will do, by the names of modules.

    Attributes:
        view: the model with plain weights; the model itself where they were plain already.
        layers: layers to be replaced, in the view.
        stay: by id in the view, why a layer or a BatchNorm stays.
        engines, reasons: engine layer and why it has this kernel, by name of the layer.
        folds, fused: BatchNorm and activation that run inside a layer, by name of the layer.
    """

    view: nn.Module
    layers: dict[str, TorchLayer] = field(default_factory=dict)
    stay: dict[int, str] = field(default_factory=dict)
    engines: dict[str, EngineLayer] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    folds: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)


def convert(
    model: nn.Module,
    example_inputs: object = None,
    *,
    scheme: Scheme | str = "auto",
    kernel: str = "auto",
    include: Selector | Iterable[Selector] = (),
    exclude: Selector | Iterable[Selector] = (),
    allow_float: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """Put the engine's layers in the place of ``nn.Linear``, ``nn.Conv1d`` and ``nn.Conv2d``.

    Masks are applied first; weights may be sparse tensors or pruned with ``torch.nn.utils.prune``.
    What follows a layer runs inside it where it is the only user of the layer's output and both
    are called exactly once: a BatchNorm after a float layer (its running statistics go into weight
    and bias), then an activation module (``nn.ReLU``, ``nn.ReLU6``, ``nn.GELU()``, ``nn.SiLU``,
    ``nn.Hardswish``). An ``nn.Identity`` stays in their place. Activation functions (``F.relu``)
    are part of the forward code and stay. Layers that can not be converted stay as they are, with
    the reason in the report. The result is in eval mode, and to be called without gradients
    (``torch.inference_mode()``): the engine does not train.

    Args:
        model: any model; a deep copy is converted.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords) that the converted model
            is run on once, so that a model which reads a replaced weight by itself fails here.
        scheme: "auto" takes each layer's own fake-quant scheme and leaves float layers alone;
            "int8" or ``Int8()`` converts float layers too, with dynamic activations; "fp32" and
            "bf16" convert those float layers that are sparse enough, or every channel of which is
            a group of its own (fp32).
        kernel: a kernel of the scheme (int8: "windowed", "dense", "depthwise"; fp32: "windowed",
            "csr", "depthwise"; bf16: "windowed"), "torch" (leave the layers as they are), or
            "auto", rules of thumb that are not measured. int8: windowed where it packs into at most
            half of dense's groups, "depthwise" where each channel is a group, else dense. fp32:
            csr from 95 % zeros on (Linear, 1x1), windowed from 60 %, else torch; bf16 likewise.
        include, exclude: layers by name glob or type; see :func:`sparsekd.modules.select`.
        allow_float: let ``kernel="torch"`` leave a float layer in float although an int8 scheme
            was asked for. The rule of thumb never does.
        inplace: convert ``model`` itself.

    Returns:
        the converted model; its ``sparsekd_report`` has a row for every leaf module.

    Raises:
        ValueError: an unknown scheme or kernel, or one that does not go with the other or with a
            layer, a selector that matches nothing, foreign hooks on a layer to be replaced, a tie
            to a tensor that stays, weights that are not finite, a static scheme without
            calibrated ranges.
        TypeError: ``model`` is no module or can not be copied.
        RuntimeError: the converted model fails on ``example_inputs``.

    >>> converted = sparsekd.convert(model, scheme="int8")
    >>> print(converted.sparsekd_report)
    """
    wanted = _check_arguments(model, scheme, kernel, allow_float)
    twins = plain_layers(model)
    plan = _Plan(view_of(model, twins))
    chosen = {id(module) for _, module in select(plan.view, include, exclude, LAYERS)}
    chains = read_chains(plan.view)
    _sort(plan, chosen, wanted, kernel, chains)
    for name in list(plan.layers):
        _pack(plan, name, wanted, kernel, chains, _is_sparse(model.get_submodule(name)))
    refuse_hooks(plan.layers)
    refuse_outside_ties(model, {name: model.get_submodule(name) for name in plan.layers})
    share_ties(plan.layers, plan.engines)
    new = _replacements(model, plan)
    flags = [(module, module.training) for module in model.modules()]
    result = substitute(model, new, inplace=inplace).eval()
    if example_inputs is not None:
        try:
            _run_once(result, example_inputs)
        except Exception:
            if inplace:
                _undo(model, new, flags)
            raise
    absorbed = {norm: ("folded", name) for name, norm in plan.folds.items()}
    absorbed.update((act, ("fused", name)) for name, act in plan.fused.items())
    result.sparsekd_report = report_of(  # type: ignore[assignment]
        plan.view, plan.engines, plan.reasons, absorbed, plan.stay, chains.failure
    )
    return result


def _check_arguments(
    model: nn.Module, scheme: Scheme | str, kernel: str, allow_float: bool
) -> Scheme | None:
    """The scheme asked for, None for "auto"."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert needs an nn.Module, got {type(model).__name__}")
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; choose one of {', '.join(KERNELS)}")
    if isinstance(scheme, str) and scheme in _SCHEMES:
        wanted = _SCHEMES[scheme]
    elif isinstance(scheme, (Int8, Fp32, Bf16)):
        wanted = scheme
    else:
        choices = ", ".join(map(repr, _SCHEMES))
        raise ValueError(f"unknown scheme {scheme!r}; choose one of {choices} or a scheme object")
    if wanted is not None:
        check_kernel(wanted, kernel)
    if kernel == "torch" and isinstance(wanted, Int8) and not allow_float:
        raise ValueError(
            "kernel='torch' would leave float layers in float although scheme asks for int8; "
            "pass allow_float=True if that is meant"
        )
    return wanted


def _sort(
    plan: _Plan, chosen: set[int], wanted: Scheme | None, kernel: str, chains: Chains
) -> None:
    """Find the layers to be replaced, and the reasons of those that stay torch."""
    readers = weight_readers(plan.view)
    for norm, reason in chains.unfolded.items():
        plan.stay[id(plan.view.get_submodule(norm))] = f"not folded: {reason}"
    for name, module in plan.view.named_modules():
        if not isinstance(module, LAYERS):
            continue
        spec = quant_spec(module) or wanted
        if id(module) in readers:
            reason = f"{readers[id(module)]} reads its weight instead of calling it"
            plan.stay[id(module)] = reason
        elif id(module) not in chosen:
            plan.stay[id(module)] = "left out by include or exclude"
        elif name in chains.direct_reads:
            plan.stay[id(module)] = "the forward code reads its weight by itself"
        elif spec is None:
            plan.stay[id(module)] = (
                "float layer: ask with scheme='int8', 'fp32' or 'bf16', or quantize.prepare_ it"
            )
        elif parametrize.is_parametrized(module):
            plan.layers[name] = module  # refused by name with the hooks
        elif reason := why_torch(module):
            plan.stay[id(module)] = reason
        elif kernel == "torch":
            lost = isinstance(wanted, Int8) and quant_spec(module) is None
            flag = "; float although int8 was asked for" if lost else ""
            plan.stay[id(module)] = f"kernel='torch' leaves it{flag}"
        else:
            plan.layers[name] = module


def _pack(
    plan: _Plan, name: str, wanted: Scheme | None, kernel: str, chains: Chains, was_sparse: bool
) -> None:
    """Build a layer's engine layer, with what follows it, or decide that it stays torch."""
    layer = plan.layers[name]
    own = quant_spec(layer)
    scheme = own or wanted
    assert scheme is not None  # _sort left the others out
    if own is None and isinstance(scheme, Int8) and scheme.activations == "static":
        raise ValueError(
            f"layer {name!r}: static activations need calibrated ranges and a float layer has "
            "none; run quantize.prepare_(model, scheme) and quantize.calibrate(model, data) first"
        )
    check_kernel(scheme, kernel, f"layer {name!r}: ")
    norm = chains.norms.get(
        name
    )  # of float layers alone: it would change a prepared one's integers
    source = layer if norm is None else folded_twin(layer, plan.view.get_submodule(norm))
    act = _activation_after(plan.view, norm or name, chains)
    kind: Any = engine_of(layer)

    def build(choice: str) -> EngineLayer:
        activation = None if act is None else activation_name(plan.view.get_submodule(act))
        try:
            made: EngineLayer = kind.from_float(
                source, scheme=scheme, kernel=choice, activation=activation, name=name
            )
            return made
        except ValueError as error:
            if name in str(error):
                raise
            raise ValueError(f"layer {name!r}: {error}") from error

    engine: EngineLayer | None
    if kernel == "auto":
        engine, reason = choose(source, scheme, build, was_sparse=was_sparse)
    else:
        engine, reason = build(kernel), f"kernel={kernel!r} was asked for"
    if engine is None:
        plan.stay[id(plan.layers.pop(name))] = reason
        return
    plan.engines[name], plan.reasons[name] = engine, reason
    if norm is not None:
        plan.folds[name] = norm
    if act is not None:
        plan.fused[name] = act


def _activation_after(model: nn.Module, name: str, chains: Chains) -> str | None:
    """The activation that alone uses the output of a layer or BatchNorm, if it can be fused."""
    act = chains.after.get(name)
    if act is None:
        return None
    module = model.get_submodule(act)
    return None if activation_name(module) is None or foreign_hooks(module) else act


def _replacements(model: nn.Module, plan: _Plan) -> dict[int, nn.Module]:
    """What takes the place of what, by id in the model."""
    new: dict[int, nn.Module] = {}
    for name, engine in plan.engines.items():
        new[id(model.get_submodule(name))] = engine
    for name, norm in plan.folds.items():
        module = model.get_submodule(norm)
        new[id(module)] = FoldedNorm.of(module, name, plan.engines[name])
    for place, module in model.named_modules():
        # prepare_ folded it; its layer is named as in the model of then, of which this may be part
        if type(module) is FoldedBatchNorm:
            parents = place.split(".")[:-1]
            prefixes = [".".join(parents[:n]) + "." for n in range(1, len(parents) + 1)]
            for name in (prefix + module.layer for prefix in ["", *prefixes]):
                if name in plan.engines:
                    new[id(module)] = FoldedNorm.of(module, name, plan.engines[name])
                    break
    for name, act in plan.fused.items():
        module = model.get_submodule(act)
        new[id(module)] = FusedActivation(copy.deepcopy(module), plan.engines[name])
    return new


def _is_sparse(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.layout is not torch.strided


def _run_once(model: nn.Module, inputs: object) -> None:
    """Call the converted model.

    Raises:
        RuntimeError: it fails, which a layer whose weight is read by the forward code causes.
    """
    try:
        with torch.no_grad():
            if isinstance(inputs, Mapping):
                model(**inputs)
            else:
                model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    except Exception as error:
        raise RuntimeError(
            f"the converted model fails on the example inputs ({type(error).__name__}: {error}); "
            "if the forward code reads a layer's weight, leave that layer out with exclude"
        ) from error


def _undo(
    model: nn.Module, new: Mapping[int, nn.Module], flags: list[tuple[nn.Module, bool]]
) -> None:
    old = {id(new[id(module)]): module for module, _ in flags if id(module) in new}
    substitute(model, old, inplace=True)
    for module, training in flags:
        module.training = training
