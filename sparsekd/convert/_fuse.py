"""What runs inside a layer beside it: the BatchNorm and the activation that follow it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from sparsekd.convert._kinds import LAYERS, TorchLayer
from sparsekd.flow import read_flow
from sparsekd.folding import BATCH_NORMS, find_folds, folded_parameters
from sparsekd.nn import EngineModule

__all__ = ["Chains", "activation_name", "folded_twin", "read_chains"]

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
}


@dataclass(frozen=True)
class Chains:
    """What follows what in a model, by the names of modules.

    Attributes:
        norms: float layer -> the BatchNorm that can be folded into it.
        unfolded: BatchNorm -> why it can not be, although it is the only user of a layer.
        after: layer or BatchNorm -> the module that is the only user of its output.
        direct_reads: modules whose parameters the forward code reads by itself.
        failure: why the data flow could not be traced, "" if it could.
    """

    norms: Mapping[str, str]
    unfolded: Mapping[str, str]
    after: Mapping[str, str]
    direct_reads: frozenset[str]
    failure: str


def activation_name(module: nn.Module) -> str | None:
    """The engine's name of a torch activation module, such as "relu"; None for any other.

    A subclass may compute something else, so only the exact types count; GELU only in its exact
    form (``approximate="none"``).
    """
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return None
    return _ACTIVATIONS.get(type(module))


def read_chains(model: nn.Module) -> Chains:
    """Read the data flow of a model; never fails, see ``Chains.failure``."""
    exact = [name for name, module in model.named_modules() if type(module) in LAYERS]
    norms, unfolded, _ = find_folds(model, exact)
    flow = read_flow(model, (*LAYERS, *BATCH_NORMS, EngineModule))
    return Chains(norms, unfolded, flow.pairs, flow.direct_reads, flow.failure)


def folded_twin(layer: TorchLayer, norm: nn.Module) -> TorchLayer:
    """A layer that computes ``norm(layer(x))`` in eval mode; the mask comes along."""
    assert isinstance(norm, BATCH_NORMS)
    weight, bias = folded_parameters(layer, norm)
    twin = copy.copy(layer)
    twin.__dict__["_parameters"] = {
        "weight": nn.Parameter(weight, requires_grad=False),
        "bias": nn.Parameter(bias, requires_grad=False),
    }
    return twin
