"""Reads a model's data flow: which activation is the only user of which linear layer.

``torch.fx`` is used for reading only, on a structural copy that shares the parameters, so that
whatever the user's forward code does while it is traced does not reach the user's model. Where
tracing fails, only neighbours inside plain ``nn.Sequential`` containers are known.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn

from sparsekd.nn import Linear

__all__ = ["Flow", "activation_name", "holders", "read_flow"]

_LAYERS = (nn.Linear, Linear)


@dataclass(frozen=True)
class Flow:
    """What is known about a model's data flow.

    Attributes:
        pairs: name of a linear layer -> name of the activation module that is the only user of
            its output, both called exactly once.
        direct_reads: names of layers whose parameters the forward code reads by itself.
        failure: why tracing failed, "" if it did not.
    """

    pairs: dict[str, str] = field(default_factory=dict)
    direct_reads: frozenset[str] = frozenset()
    failure: str = ""


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


def holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """For each module's id: the (parent, key) places where it is registered, each once."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for key, child in parent._modules.items():
            if child is not None:
                found.setdefault(id(child), []).append((parent, key))
    return found


def read_flow(model: nn.Module) -> Flow:
    """Trace ``model`` and find the linear layers that are followed by an activation alone.

    The result never fails; see ``Flow.failure``.
    """
    if isinstance(model, _LAYERS):
        return Flow()
    single = {key for key, places in holders(model).items() if len(places) == 1}
    names = {id(module): name for name, module in model.named_modules()}
    try:
        shadow = _structural_copy(model)
        with torch.random.fork_rng(devices=[]):
            graphs = [_trace(shadow, fixed) for fixed in _argument_choices(shadow)]
        pairs, reads = _read(graphs[0], shadow)
        for graph in graphs[1:]:
            # An optional argument may switch paths: what holds must hold on both.
            more, more_reads = _read(graph, shadow)
            pairs = {layer: act for layer, act in pairs.items() if more.get(layer) == act}
            reads |= more_reads
    except Exception as error:  # forward code is the user's: it may raise anything when traced
        text = " ".join(str(error).split())
        failure = f"{type(error).__name__}: {text[:160]}"
        return Flow(pairs=_sequential_pairs(model, names, single), failure=failure)
    pairs = {
        layer: act
        for layer, act in pairs.items()
        if id(model.get_submodule(layer)) in single and id(model.get_submodule(act)) in single
    }
    return Flow(pairs=pairs, direct_reads=frozenset(reads))


class _Tracer(fx.Tracer):
    """Stops at layers, at torch's own modules and at modules that hold no linear layer."""

    proxy_buffer_attributes = True  # forward code must not compute with the real buffers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, _LAYERS) or not any(isinstance(part, _LAYERS) for part in m.modules()):
            return True
        return bool(super().is_leaf_module(m, module_qualified_name))


def _structural_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode that shares parameters, and the buffers of leaf modules."""
    memo: dict[int, Any] = {id(param): param for param in model.parameters()}
    for module in model.modules():
        if not module._modules:
            memo.update({id(b): b for b in module._buffers.values() if b is not None})
    return copy.deepcopy(model, memo).eval()


def _argument_choices(model: nn.Module) -> list[dict[str, Any]]:
    """Traced arguments: all of them unknown, and the optional ones left at None."""
    parameters = inspect.signature(model.forward).parameters.values()
    absent = {p.name: None for p in parameters if p.default is None}
    return [{}, absent] if absent else [{}]


def _trace(model: nn.Module, fixed: dict[str, Any]) -> fx.Graph:
    return _Tracer().trace(model, concrete_args=fixed or None)


def _read(graph: fx.Graph, model: nn.Module) -> tuple[dict[str, str], set[str]]:
    """(layer -> its fusable activation, layers whose parameters are read directly) of a graph."""
    calls = {
        node: model.get_submodule(str(node.target))
        for node in graph.nodes
        if node.op == "call_module"
    }
    times = Counter(id(module) for module in calls.values())
    names = {id(module): name for name, module in model.named_modules()}
    pairs: dict[str, str] = {}
    for node, module in calls.items():
        before = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if activation_name(module) is None or not isinstance(before, fx.Node):
            continue
        layer = calls.get(before)
        if not isinstance(layer, nn.Linear) or set(before.users) != {node}:
            continue
        if times[id(layer)] == 1 and times[id(module)] == 1:
            pairs[names[id(layer)]] = names[id(module)]
    owners = (str(n.target).rpartition(".")[0] for n in graph.nodes if n.op == "get_attr")
    layers = (model.get_submodule(owner) for owner in owners)
    reads = {names[id(layer)] for layer in layers if isinstance(layer, _LAYERS)}
    return pairs, reads


def _sequential_pairs(model: nn.Module, names: dict[int, str], single: set[int]) -> dict[str, str]:
    """Neighbours (layer, activation) inside ``nn.Sequential`` itself, each registered once."""
    pairs: dict[str, str] = {}
    for container in model.modules():
        if type(container) is not nn.Sequential:
            continue
        children = list(container)
        for layer, act in pairwise(children):
            if not isinstance(layer, nn.Linear) or activation_name(act) is None:
                continue
            if id(layer) in single and id(act) in single:
                pairs[names[id(layer)]] = names[id(act)]
    return pairs
