"""What becomes of each part of a plan, and the modules that take the places of others."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from torch import nn

from sparsekd.choice import Option, TuneReport
from sparsekd.convert._choose import choose
from sparsekd.convert._kinds import LAYERS, EngineLayer, TorchLayer, scheme_text
from sparsekd.convert._parts import TORCH, Part
from sparsekd.convert._plan import Plan
from sparsekd.convert._restore import FoldedNorm, FusedActivation, tie_parameters
from sparsekd.flow import FoldedBatchNorm

__all__ = ["Decision", "decide", "replacements"]


@dataclass
class Decision:
    """What each part becomes, by name of its layer.

    Attributes:
        engines: the engine layers; an engine layer that keeps its format is itself.
        back: what stands at the places of an engine layer that goes back to torch.
        reasons: why, for every part.
    """

    engines: dict[str, EngineLayer] = field(default_factory=dict)
    back: dict[str, tuple[nn.Module, ...]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def replaced(self, plan: Plan) -> dict[str, TorchLayer | EngineLayer]:
        """The layers that make room for another one."""
        return {
            name: part.layer
            for name, part in plan.parts.items()
            if name in self.back or self.engines.get(name, part.layer) is not part.layer
        }

    def absorbed(self, plan: Plan) -> dict[str, tuple[str, str]]:
        """BatchNorm or activation -> (kernel, reason) of its row in the report."""
        rows = {}
        for name, part in plan.parts.items():
            if name in self.engines:
                for kernel, place in (("folded", part.norm), ("fused", part.act)):
                    if place is not None:
                        rows[place] = (kernel, f"runs in {name!r}")
            elif name in self.back and part.act is not None:
                rows[part.act] = ("torch", f"put back: {name!r} runs in torch")
        return rows


def decide(plan: Plan, kernel: str, tuning: TuneReport | None) -> Decision:
    """Follow the kernel that was asked for, else the measurement, else the rule of thumb.

    Layers that stay in torch are added to ``plan.stay``.

    Raises:
        ValueError: a measurement of other layers or schemes, or a kernel that does not serve a
            layer.
    """
    measured = {} if tuning is None else {choice.name: choice for choice in tuning.layers}
    names = {name for name, _ in plan.view.named_modules()}
    for name in measured:
        if name not in names:
            raise ValueError(f"the tune report names layer {name!r}, which the model does not have")
    decision = Decision()
    shared: dict[int, nn.Parameter] = {}
    for name, part in plan.parts.items():
        if kernel != "auto":
            option, reason = Option(kernel), f"kernel={kernel!r} was asked for"
        elif name in measured:
            choice, ours = measured[name], scheme_text(part.scheme)
            if choice.scheme != ours:
                raise ValueError(
                    f"layer {name!r} was tuned as {choice.scheme} and would be converted to "
                    f"{ours}; pass the scheme that tune was given"
                )
            option, reason = choice.option, str(choice)
        elif part.current is not None:
            option, reason = part.current, "already an engine layer"
        else:
            option, reason = choose(part)
        decision.reasons[name] = reason
        if option != TORCH:
            decision.engines[name] = part.engine(option)
            continue
        plan.stay[id(part.layer)] = reason
        if isinstance(part.layer, EngineLayer):
            decision.back[name] = _back(part, part.layer, shared)
    return decision


def _back(part: Part, layer: EngineLayer, shared: dict[int, nn.Parameter]) -> tuple[nn.Module, ...]:
    if part.torch is None:
        raise ValueError(f"layer {part.name!r} can not go back to torch: a BatchNorm is part of it")
    modules = part.torch()
    plain = next(module for module in modules[0].modules() if isinstance(module, LAYERS))
    tie_parameters(layer, plain, shared)
    return modules


def replacements(model: nn.Module, plan: Plan, decision: Decision) -> dict[int, nn.Module]:
    """What takes the place of what, by id in the model."""
    new: dict[int, nn.Module] = {}
    engines = decision.engines
    for name, part in plan.parts.items():
        layer, engine = model.get_submodule(name), engines.get(name)
        if name in decision.back:
            for place, module in zip(part.places, decision.back[name], strict=True):
                new[id(model.get_submodule(place))] = module
        elif engine is None:
            # Torch's pruning can not be copied, and multiplies its mask in at every call.
            if layer is not part.layer and not part.was_sparse:
                new[id(layer)] = _plain_copy(layer, part.layer)
        elif engine is not layer:
            new[id(layer)] = engine
            if part.norm is not None:
                module = model.get_submodule(part.norm)
                new[id(module)] = FoldedNorm.of(module, name, engine)
            if part.act is not None:
                module = model.get_submodule(part.act)
                original = module.original if isinstance(module, FusedActivation) else module
                new[id(module)] = FusedActivation(copy.deepcopy(original), engine)
    for place, module in model.named_modules():
        if isinstance(module, FoldedNorm):
            engine_now = new.get(id(module.engine))
            if isinstance(engine_now, EngineLayer):
                new[id(module)] = FoldedNorm.of(module, module.layer, engine_now)
        elif type(module) is FoldedBatchNorm:
            # prepare_ folded it; its layer is named as in the model of then, of which this may be
            # a part
            parents = place.split(".")[:-1]
            prefixes = [".".join(parents[:n]) + "." for n in range(1, len(parents) + 1)]
            for name in (prefix + module.layer for prefix in ["", *prefixes]):
                if name in engines:
                    new[id(module)] = FoldedNorm.of(module, name, engines[name])
                    break
    return new


def _plain_copy(layer: nn.Module, twin: nn.Module) -> nn.Module:
    """A twin of a pruned layer with tensors of its own, to be trained if the layer was."""
    own = copy.deepcopy(twin)
    trained = any(parameter.requires_grad for parameter in layer.parameters())
    return own.requires_grad_(trained)
