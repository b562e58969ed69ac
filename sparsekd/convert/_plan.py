"""What conversion can do with a model: the parts that it may replace, and why the rest stays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils import parametrize

from sparsekd.convert._checks import why_torch
from sparsekd.convert._choose import KERNELS, check_kernel
from sparsekd.convert._fuse import Chains, read_chains
from sparsekd.convert._kinds import ENGINE_LAYERS, LAYERS
from sparsekd.convert._parts import Part, engine_part, float_part
from sparsekd.convert._sources import plain_layers, view_of
from sparsekd.flow import weight_readers
from sparsekd.modules import Selector, quant_spec, select
from sparsekd.spec import Bf16, Fp32, Int8, Scheme

__all__ = ["Plan", "Request", "make_plan"]

_SCHEMES: dict[str, Scheme | None] = {
    "auto": None,
    "int8": Int8(),
    "int8:static": Int8("static"),
    "fp32": Fp32(),
    "bf16": Bf16(),
}


@dataclass(frozen=True)
class Request:
    """What a caller asks for, checked.

    Attributes:
        scheme: of layers that have none of their own; None for "auto".
        kernel: a kernel, "auto" or "torch".
    """

    scheme: Scheme | None
    kernel: str
    allow_float: bool

    @classmethod
    def of(cls, model: nn.Module, scheme: Scheme | str, kernel: str, allow_float: bool) -> Request:
        """Raises TypeError and ValueError as ``convert`` documents."""
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
            raise ValueError(
                f"unknown scheme {scheme!r}; choose one of {choices} or a scheme object"
            )
        if wanted is not None:
            check_kernel(wanted, kernel)
        if kernel == "torch" and isinstance(wanted, Int8) and not allow_float:
            raise ValueError(
                "kernel='torch' would leave float layers in float although scheme asks for int8; "
                "pass allow_float=True if that is meant"
            )
        return cls(wanted, kernel, allow_float)


@dataclass
class Plan:
    """What conversion can do, by the names of modules.

    Attributes:
        view: the model with plain weights; the model itself where they were plain already.
        chains: what follows what.
        parts: the layers that it may replace.
        stay: by id in the view, why a layer or a BatchNorm stays.
    """

    view: nn.Module
    chains: Chains
    parts: dict[str, Part] = field(default_factory=dict)
    stay: dict[int, str] = field(default_factory=dict)


def make_plan(
    model: nn.Module,
    request: Request,
    include: Selector | Iterable[Selector],
    exclude: Selector | Iterable[Selector],
    *,
    engines: bool,
) -> Plan:
    """Read a model.

    Args:
        engines: engine layers are parts too, to be put into other formats.

    Raises:
        ValueError: a selector that matches nothing, a kernel that does not go with a layer's
            scheme, a static scheme without calibrated ranges.
    """
    view = view_of(model, plain_layers(model))
    plan = Plan(view, read_chains(view))
    for norm, reason in plan.chains.unfolded.items():
        plan.stay[id(view.get_submodule(norm))] = f"not folded: {reason}"
    kinds = (*LAYERS, *ENGINE_LAYERS) if engines else LAYERS
    chosen = {id(module) for _, module in select(view, include, exclude, kinds)}
    readers = weight_readers(view)
    for name, module in view.named_modules():
        if isinstance(module, ENGINE_LAYERS) and engines and id(module) in chosen:
            plan.parts[name] = engine_part(view, name)
        if not isinstance(module, LAYERS):
            continue
        if id(module) in readers:
            reason = f"{readers[id(module)]} reads its weight instead of calling it"
        elif id(module) not in chosen:
            reason = "left out by include or exclude"
        elif name in plan.chains.direct_reads:
            reason = "the forward code reads its weight by itself"
        else:
            reason = _why_not(module, request)
        if reason:
            plan.stay[id(module)] = reason
        else:
            sparse = _is_sparse(model.get_submodule(name))
            scheme = _scheme_of(name, module, request)
            plan.parts[name] = float_part(view, name, scheme, plan.chains, sparse)
    return plan


def _why_not(module: nn.Linear | nn.Conv1d | nn.Conv2d, request: Request) -> str:
    """Why a layer that was chosen stays in torch; "" where it is a part."""
    own = quant_spec(module)
    scheme = own or request.scheme
    if parametrize.is_parametrized(module):
        # Where it was asked for, it is refused with the other hooks, by name and with the remedy.
        return "" if scheme is not None else "a parametrization computes its weight"
    if reason := why_torch(module):
        return reason
    if request.kernel == "torch":
        lost = isinstance(request.scheme, Int8) and own is None
        flag = "; float although int8 was asked for" if lost else ""
        return f"kernel='torch' leaves it{flag}"
    if scheme is None:
        try:
            check_kernel(Fp32(), request.kernel)
        except ValueError as error:  # fp32 was not asked for, so that this is no mistake
            return f"float layer: {error}"
    return ""


def _scheme_of(name: str, module: nn.Module, request: Request) -> Scheme:
    """Its own fake-quant scheme, else the one asked for, else fp32."""
    own = quant_spec(module)
    scheme = own or request.scheme or Fp32()
    if own is None and isinstance(scheme, Int8) and scheme.activations == "static":
        raise ValueError(
            f"layer {name!r}: static activations need calibrated ranges and a float layer has "
            "none; run quantize.prepare_(model, scheme) and quantize.calibrate(model, data) first"
        )
    check_kernel(scheme, request.kernel, f"layer {name!r}: ")
    return scheme


def _is_sparse(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.layout is not torch.strided
