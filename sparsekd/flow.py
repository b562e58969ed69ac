"""How a model is wired: which module follows which layer, and what else reads or watches a layer.

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
from torch.nn.utils import parametrize

from sparsekd.modules import is_own_hook

__all__ = ["Flow", "FoldedBatchNorm", "foreign_hooks", "holders", "read_flow", "weight_readers"]

_Kinds = tuple[type[nn.Module], ...]

_HOOKS = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_state_dict_hooks": "state_dict hook",
    "_state_dict_pre_hooks": "state_dict pre-hook",
    "_load_state_dict_pre_hooks": "load_state_dict pre-hook",
    "_load_state_dict_post_hooks": "load_state_dict post-hook",
}


@dataclass(frozen=True)
class Flow:
    """What is known about a model's data flow.

    Attributes:
        pairs: name of a layer -> name of the module that is the only user of its output, both
            called exactly once and registered in one place. An ``nn.Identity`` or a
            ``FoldedBatchNorm`` in between is looked through.
        direct_reads: names of layers whose parameters the forward code reads by itself.
        failure: why tracing failed, "" if it did not.
    """

    pairs: dict[str, str] = field(default_factory=dict)
    direct_reads: frozenset[str] = frozenset()
    failure: str = ""


class FoldedBatchNorm(nn.Identity):
    """Stands where a BatchNorm was that is part of a layer's weight and bias now.

    It does nothing; it keeps what a reader, or a file, has to know to put it into a fresh model.

    Args:
        kind: class name of the BatchNorm, such as "BatchNorm2d".
        num_features: its channels.
        layer: name of the layer that took it in.

    >>> FoldedBatchNorm("BatchNorm2d", 8, "conv1")
    FoldedBatchNorm(BatchNorm2d(8) is part of 'conv1')
    """

    def __init__(self, kind: str, num_features: int, layer: str) -> None:
        super().__init__()
        self.kind = kind
        self.num_features = num_features
        self.layer = layer

    def extra_repr(self) -> str:
        return f"{self.kind}({self.num_features}) is part of {self.layer!r}"


def read_flow(model: nn.Module, layers: _Kinds, *, reach: _Kinds = (), train: bool = False) -> Flow:
    """Find the layers whose output goes into one other module alone.

    What is said holds in eval mode, with optional arguments given and left out.

    Args:
        layers: the kinds of module whose followers are looked for.
        reach: further kinds of module that tracing must not hide inside a larger one.
        train: what is said must hold in training mode too.

    Returns:
        the flow; reading never fails, see ``Flow.failure``.
    """
    if isinstance(model, layers):
        return Flow()
    single = {key for key, places in holders(model).items() if len(places) == 1}
    names = {id(module): name for name, module in model.named_modules()}
    try:
        found = [
            _read(graph, shadow, layers)
            for mode in ([False, True] if train else [False])
            for graph, shadow in _traces(model, (*layers, *reach), mode)
        ]
    except Exception as error:  # forward code is the user's: it may raise anything when traced
        text = " ".join(str(error).split())
        failure = f"{type(error).__name__}: {text[:160]}"
        return Flow(pairs=_sequential_pairs(model, layers, names, single), failure=failure)
    # Modes and optional arguments may switch paths: what holds must hold on all of them.
    pairs = {
        layer: after
        for layer, after in found[0][0].items()
        if all(others.get(layer) == after for others, _ in found)
        and id(model.get_submodule(layer)) in single
        and id(model.get_submodule(after)) in single
    }
    return Flow(pairs=pairs, direct_reads=frozenset().union(*(reads for _, reads in found)))


def holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """For each module's id: the (parent, key) places where it is registered, each once."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for key, child in parent._modules.items():
            if child is not None:
                found.setdefault(id(child), []).append((parent, key))
    return found


def foreign_hooks(module: nn.Module) -> list[str]:
    """What replacing ``module`` would silently drop, in words; sparsekd's own hooks excepted."""
    found = [
        words
        for attribute, words in _HOOKS.items()
        for hook in getattr(module, attribute, {}).values()
        # torch wraps some hooks; what was registered is inside
        if not (is_own_hook(hook) or is_own_hook(getattr(hook, "hook", None)))
    ]
    if parametrize.is_parametrized(module):
        found.append("parametrization")
    if "forward" in module.__dict__:
        found.append("forward replaced on the instance")
    return found


def weight_readers(model: nn.Module) -> dict[int, str]:
    """By module id, the layers whose torch parent reads their weight instead of calling them.

    ``nn.TransformerEncoderLayer`` does so on its fast path in eval mode.
    """
    found: dict[int, str] = {}
    for parent in model.modules():
        if isinstance(parent, (nn.MultiheadAttention, nn.TransformerEncoderLayer)):
            for child in parent.children():
                found[id(child)] = type(parent).__name__
    return found


class _Tracer(fx.Tracer):
    """Stops at modules of interest, at torch's own and at those that hold none of interest."""

    proxy_buffer_attributes = True  # forward code must not compute with the real buffers

    def __init__(self, interest: _Kinds) -> None:
        super().__init__()
        self._interest = interest

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, self._interest):
            return True
        if not any(isinstance(part, self._interest) for part in m.modules()):
            return True
        return bool(super().is_leaf_module(m, module_qualified_name))


def _traces(model: nn.Module, interest: _Kinds, train: bool) -> list[tuple[fx.Graph, nn.Module]]:
    """The graphs with all arguments unknown, and with the optional ones left at None."""
    shadow = _structural_copy(model).train(train)
    parameters = inspect.signature(shadow.forward).parameters.values()
    absent: dict[str, Any] = {p.name: None for p in parameters if p.default is None}
    with torch.random.fork_rng(devices=[]):
        return [
            (_Tracer(interest).trace(shadow, concrete_args=fixed), shadow)
            for fixed in ([None, absent] if absent else [None])
        ]


def _structural_copy(model: nn.Module) -> nn.Module:
    """A deep copy that shares parameters, and the buffers of leaf modules."""
    memo: dict[int, Any] = {id(param): param for param in model.parameters()}
    for module in model.modules():
        if not module._modules:
            memo.update({id(b): b for b in module._buffers.values() if b is not None})
    return copy.deepcopy(model, memo)


def _read(graph: fx.Graph, model: nn.Module, layers: _Kinds) -> tuple[dict[str, str], set[str]]:
    """(layer -> its only user, layers whose parameters are read directly) of a graph."""
    calls = {
        node: model.get_submodule(str(node.target))
        for node in graph.nodes
        if node.op == "call_module"
    }
    times = Counter(id(module) for module in calls.values())
    names = {id(module): name for name, module in model.named_modules()}
    pairs: dict[str, str] = {}
    for node, module in calls.items():
        if _does_nothing(module):
            continue
        before = _only_source(node)
        while before is not None and _does_nothing(calls.get(before)):
            before = _only_source(before)
        layer = None if before is None else calls.get(before)
        if isinstance(layer, layers) and times[id(layer)] == 1 == times[id(module)]:
            pairs[names[id(layer)]] = names[id(module)]
    owners = (str(n.target).rpartition(".")[0] for n in graph.nodes if n.op == "get_attr")
    found = (model.get_submodule(owner) for owner in owners)
    return pairs, {names[id(layer)] for layer in found if isinstance(layer, layers)}


def _does_nothing(module: nn.Module | None) -> bool:
    return type(module) in (nn.Identity, FoldedBatchNorm)


def _only_source(node: fx.Node) -> fx.Node | None:
    """The node whose output is the single argument of ``node`` and goes nowhere else."""
    before = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    return before if isinstance(before, fx.Node) and set(before.users) == {node} else None


def _sequential_pairs(
    model: nn.Module, layers: _Kinds, names: dict[int, str], single: set[int]
) -> dict[str, str]:
    """Neighbours (layer, next module) inside ``nn.Sequential`` itself, each registered once."""
    pairs: dict[str, str] = {}
    for container in model.modules():
        if type(container) is not nn.Sequential:
            continue
        children = [child for child in container if not _does_nothing(child)]
        for layer, after in pairwise(children):
            if isinstance(layer, layers) and id(layer) in single and id(after) in single:
                pairs[names[id(layer)]] = names[id(after)]
    return pairs
