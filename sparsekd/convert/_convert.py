"""``convert``: puts engine layers where the model's data flow and schemes allow it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsekd.convert._checks import (
    foreign_hooks,
    refuse_hooks,
    refuse_outside_ties,
    weight_readers,
    why_torch,
)
from sparsekd.convert._flow import Flow, activation_name, read_flow
from sparsekd.convert._report import ConversionReport, ConversionRow
from sparsekd.convert._restore import FusedActivation, substitute
from sparsekd.modules import Selector, quant_spec, select, weight_mask
from sparsekd.nn import Linear
from sparsekd.spec import Int8

__all__ = ["KERNELS", "convert"]

KERNELS = ("auto", "windowed", "dense", "torch")
_SCHEMES = {"auto": None, "int8": Int8(), "int8:static": Int8("static")}

# A windowed group of 16 outputs x 4 inputs stores a position beside each value, so up to half of
# dense's groups it takes no more bytes; with AVX512-VBMI that is also about where it becomes the
# faster one. Older instruction sets cross over at fewer groups. The choice does not look at the
# CPU, so that the same model always converts to the same file.
_WINDOWED_SHARE = 0.5


@dataclass(frozen=True)
class _Planned:
    """One layer to be replaced: its engine layer and what the report says of it."""

    engine: Linear
    reason: str


def convert(
    model: nn.Module,
    example_inputs: object = None,
    *,
    scheme: Int8 | str = "auto",
    kernel: str = "auto",
    include: Selector | Iterable[Selector] = (),
    exclude: Selector | Iterable[Selector] = (),
    allow_float: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """Put the engine's layers in the place of ``nn.Linear``, where that changes nothing.

    Masks are applied first. An activation module (``nn.ReLU``, ``nn.GELU()``, ``nn.SiLU``) is taken
    into the layer before it when it is the only user of that layer's output and both are called
    exactly once; an ``nn.Identity`` stays in its place. Activation functions (``F.relu``) are part
    of the forward code and stay. Layers that can not be converted stay as they are, with the
    reason in the report. The result is in eval mode, and to be called without gradients
    (``torch.inference_mode()``): the engine does not train.

    Args:
        model: any model; a deep copy is converted.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords) that the converted model
            is run on once, so that a model which reads a replaced weight by itself fails here.
        scheme: "auto" takes each layer's own fake-quant scheme and leaves float layers alone;
            "int8" or ``Int8()`` converts float layers too, with dynamic activations.
        kernel: "windowed" (sparse weights), "dense", "torch" (leave the layers as they are), or
            "auto": windowed where it packs into at most half of dense's groups (then it takes no
            more bytes), else dense; a rule of thumb for AVX512-VBMI, not a measurement.
        include, exclude: layers by name glob or type; see :func:`sparsekd.modules.select`.
        allow_float: let ``kernel="torch"`` leave a float layer in float although an int8 scheme
            was asked for. The rule of thumb never does.
        inplace: convert ``model`` itself.

    Returns:
        the converted model; its ``sparsekd_report`` has a row for every leaf module.

    Raises:
        ValueError: an unknown scheme or kernel, a selector that matches nothing, foreign hooks on
            a layer to be replaced, a tie to a tensor that stays, weights that are not finite, a
            static scheme without calibrated ranges.
        TypeError: ``model`` is no module or can not be copied.
        RuntimeError: the converted model fails on ``example_inputs``.

    >>> converted = sparsekd.convert(model, scheme="int8")
    >>> print(converted.sparsekd_report)
    """
    wanted = _check_arguments(model, scheme, kernel, allow_float)
    chosen = {id(module) for _, module in select(model, include, exclude)}
    flow = read_flow(model)
    layers, stay = _sort(model, chosen, wanted, kernel, flow)
    refuse_hooks(layers)
    refuse_outside_ties(model, layers)
    fused = {
        name: act
        for name, act in flow.pairs.items()
        if name in layers and not foreign_hooks(model.get_submodule(act))
    }
    acts = {name: model.get_submodule(act) for name, act in fused.items()}
    planned = {
        name: _pack(name, layer, wanted, kernel, acts.get(name)) for name, layer in layers.items()
    }
    _share_ties(layers, planned)
    report = _report(model, planned, fused, stay, flow)
    new: dict[int, nn.Module] = {id(layers[name]): plan.engine for name, plan in planned.items()}
    for name, module in acts.items():
        new[id(module)] = FusedActivation(copy.deepcopy(module), planned[name].engine)
    flags = [(module, module.training) for module in model.modules()]
    result = substitute(model, new, inplace=inplace).eval()
    if example_inputs is not None:
        try:
            _run_once(result, example_inputs)
        except Exception:
            if inplace:
                _undo(model, new, flags)
            raise
    result.sparsekd_report = report  # type: ignore[assignment]
    return result


def _check_arguments(
    model: nn.Module, scheme: Int8 | str, kernel: str, allow_float: bool
) -> Int8 | None:
    """The scheme asked for, None for "auto"."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert needs an nn.Module, got {type(model).__name__}")
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; choose one of {', '.join(KERNELS)}")
    if isinstance(scheme, str) and scheme in _SCHEMES:
        wanted = _SCHEMES[scheme]
    elif isinstance(scheme, Int8):
        wanted = scheme
    else:
        choices = ", ".join(map(repr, _SCHEMES))
        raise ValueError(f"unknown scheme {scheme!r}; choose one of {choices} or an Int8(...)")
    if kernel == "torch" and wanted is not None and not allow_float:
        raise ValueError(
            "kernel='torch' would leave float layers in float although scheme asks for int8; "
            "pass allow_float=True if that is meant"
        )
    return wanted


def _sort(
    model: nn.Module, chosen: set[int], wanted: Int8 | None, kernel: str, flow: Flow
) -> tuple[dict[str, nn.Linear], dict[int, str]]:
    """(layers to be replaced by name, reason by id of those that stay torch)."""
    layers: dict[str, nn.Linear] = {}
    stay: dict[int, str] = {}
    readers = weight_readers(model)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        spec = quant_spec(module) or wanted
        if id(module) not in chosen:
            stay[id(module)] = "left out by include or exclude"
        elif id(module) in readers:
            stay[id(module)] = f"{readers[id(module)]} reads its weight instead of calling it"
        elif name in flow.direct_reads:
            stay[id(module)] = "the forward code reads its weight by itself"
        elif spec is None:
            stay[id(module)] = (
                "float layer: fp32 kernels are not in this version; ask with scheme='int8' or "
                "quantize.prepare_ it"
            )
        elif parametrize.is_parametrized(module):
            layers[name] = module  # refused by name with the hooks
        elif reason := why_torch(module):
            stay[id(module)] = reason
        elif kernel == "torch":
            flag = "" if quant_spec(module) else "; float although int8 was asked for"
            stay[id(module)] = f"kernel='torch' leaves it{flag}"
        else:
            layers[name] = module
    return layers, stay


def _pack(
    name: str, layer: nn.Linear, wanted: Int8 | None, kernel: str, act: nn.Module | None
) -> _Planned:
    """Build the engine layer and say why it has this kernel."""
    own = quant_spec(layer)
    if own is None and wanted is not None and wanted.activations == "static":
        raise ValueError(
            f"layer {name!r}: static activations need calibrated ranges and a float layer has "
            "none; run quantize.prepare_(model, scheme) and quantize.calibrate(model, data) first"
        )
    activation = None if act is None else activation_name(act)

    def build(choice: str) -> Linear:
        scheme = None if own else wanted
        return Linear.from_float(
            layer, scheme=scheme, kernel=choice, activation=activation, name=name
        )

    if kernel != "auto":
        return _Planned(build(kernel), f"kernel={kernel!r} was asked for")
    kept = 1.0 - (_sparsity(layer) or 0.0)
    if kept > _WINDOWED_SHARE:  # then its windowed form can not be small enough either
        return _Planned(build("dense"), f"{kept:.0%} of the weights kept (not measured)")
    windowed = build("windowed")
    share = _packed_share(windowed)
    reason = f"packs into {share:.1%} of dense's groups (not measured)"
    if share <= _WINDOWED_SHARE:
        return _Planned(windowed, reason)
    return _Planned(build("dense"), f"windowed {reason}")


def _packed_share(windowed: Linear) -> float:
    """Groups of 16 outputs x 4 inputs in the windowed form over those of the dense form."""
    steps = windowed._buffers["values"]
    dense = -(-windowed.out_features // 16) * -(-windowed.in_features // 4)
    return 0.0 if steps is None else steps.shape[0] / max(dense, 1)


def _share_ties(layers: Mapping[str, nn.Linear], planned: Mapping[str, _Planned]) -> None:
    """Let engine layers whose float layers share a parameter share the packed buffers.

    Raises:
        ValueError: they pack differently, so that they can not stay tied.
    """
    for key in ("weight", "bias"):
        first: dict[int, str] = {}
        for name, layer in layers.items():
            parameter = layer._parameters[key]
            if parameter is None or first.setdefault(id(parameter), name) == name:
                continue
            other = first[id(parameter)]
            ours, theirs = planned[name].engine, planned[other].engine
            for buffer in _derived(ours, key) | _derived(theirs, key):
                a, b = ours._buffers.get(buffer), theirs._buffers.get(buffer)
                if not (isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)):
                    raise ValueError(
                        f"layers {other!r} and {name!r} share one {key} but pack differently "
                        "(another mask, scheme or kernel); make these equal or exclude both"
                    )
                ours._buffers[buffer] = b


def _derived(layer: Linear, key: str) -> set[str]:
    """The buffers of an engine layer that come from the float layer's weight or bias."""
    inputs = {"bias", "input_scale", "input_zero_point"}
    held = {name for name, buffer in layer._buffers.items() if buffer is not None}
    return {"bias"} & held if key == "bias" else held - inputs


def _report(
    model: nn.Module,
    planned: Mapping[str, _Planned],
    fused: Mapping[str, str],
    stay: Mapping[int, str],
    flow: Flow,
) -> ConversionReport:
    """A row for every leaf, and for every module that owns parameters beside its children."""
    into = {act: name for name, act in fused.items()}
    rows = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if name in planned:
            engine = planned[name].engine
            total = engine.out_features * engine.in_features
            sparsity = 1.0 - engine.kept() / max(total, 1)
            rows.append(
                ConversionRow(
                    name, kind, engine.kernel, engine.activation, sparsity, planned[name].reason
                )
            )
        elif name in into or isinstance(module, FusedActivation):
            where = repr(into[name]) if name in into else "the engine layer before"
            rows.append(ConversionRow(name, kind, "fused", None, None, f"runs in {where}"))
        elif isinstance(module, (Linear, nn.Linear)) or not module._modules or module._parameters:
            reason = "already an engine layer" if isinstance(module, Linear) else ""
            reason = reason or stay.get(id(module)) or f"no engine kernel for {kind}"
            kernel = module.kernel if isinstance(module, Linear) else "torch"
            rows.append(ConversionRow(name, kind, kernel, None, _sparsity(module), reason))
    notes = []
    if flow.failure:
        notes.append(
            "the data flow could not be traced, so activations were fused only inside "
            f"nn.Sequential ({flow.failure})"
        )
    return ConversionReport(tuple(rows), tuple(notes))


def _sparsity(module: nn.Module) -> float | None:
    """Share of zeros in a weight, masks applied; None without one, or without data."""
    weight = module._parameters.get("weight")
    if weight is None or weight.is_meta or weight.dim() < 2 or weight.numel() == 0:
        return None
    kept, mask = weight.detach().ne(0), weight_mask(module)
    return 1.0 - float((kept if mask is None else kept & mask).float().mean())


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
