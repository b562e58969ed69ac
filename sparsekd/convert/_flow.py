"""Which activation is the only user of which linear layer."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from sparsekd import flow
from sparsekd.flow import Flow, holders
from sparsekd.nn import Linear

__all__ = ["Flow", "activation_name", "holders", "read_flow"]


def activation_name(module: nn.Module) -> str | None:
    """The engine's name of a torch activation module: relu, gelu or silu; None for any other.

    A subclass may compute something else, so only the exact types count; GELU only in its exact
    form (``approximate="none"``).
    """
    if type(module) is nn.ReLU:
        return "relu"
    if type(module) is nn.GELU and module.approximate == "none":
        return "gelu"
    if type(module) is nn.SiLU:
        return "silu"
    return None


def read_flow(model: nn.Module) -> Flow:
    """The data flow with the pairs of a linear layer and an activation that can be fused.

    The result never fails; see ``Flow.failure``.
    """
    found = flow.read_flow(model, (nn.Linear, Linear))
    pairs = {
        layer: after
        for layer, after in found.pairs.items()
        if isinstance(model.get_submodule(layer), nn.Linear)
        and activation_name(model.get_submodule(after)) is not None
    }
    return replace(found, pairs=pairs)
