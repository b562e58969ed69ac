"""BatchNorm folded into the layer before it.

In eval mode a BatchNorm multiplies each channel by a constant and adds one, so a linear layer whose
output goes into it alone can do both itself. In fp32, in this order of operations::

    factor = gamma / sqrt(var + eps)
    weight' = weight * factor        (one factor an output)
    bias' = (bias - mean) * factor + beta

After Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (2018), section 3.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsekd.flow import Flow, FoldedBatchNorm, foreign_hooks, holders, read_flow

__all__ = ["BATCH_NORMS", "FOLDABLE", "FoldedBatchNorm", "find_folds", "fold_", "folded_parameters"]

FOLDABLE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: nn.BatchNorm1d,
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
}
"""Kind of layer -> the kind of BatchNorm that can follow it."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def find_folds(
    model: nn.Module, names: Collection[str]
) -> tuple[dict[str, str], dict[str, str], Flow]:
    """Which of the named layers can take in the BatchNorm that follows them.

    Args:
        names: of layers of exactly the kinds in ``FOLDABLE``.

    Returns:
        ``(pairs, stay, flow)``: layer -> BatchNorm to fold, BatchNorm -> why it stays although a
        layer has it as its only user, and the data flow that both were read from.
    """
    if not any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        return {}, {}, Flow()
    # Both modes: a folded model is trained as well.
    flow = read_flow(model, tuple(FOLDABLE), reach=BATCH_NORMS, train=True)
    owners = Counter(
        id(parameter) for module in model.modules() for parameter in module._parameters.values()
    )
    pairs: dict[str, str] = {}
    stay: dict[str, str] = {}
    for name, after in flow.pairs.items():
        layer, norm = model.get_submodule(name), model.get_submodule(after)
        if name not in names or not isinstance(norm, BATCH_NORMS):
            continue
        if name in flow.direct_reads or after in flow.direct_reads:
            stay[after] = "the forward code reads parameters of it or of the layer by itself"
        elif reason := _why_not(layer, norm, owners):
            stay[after] = reason
        else:
            pairs[name] = after
    return pairs, stay, flow


def fold_(model: nn.Module, pairs: Mapping[str, str]) -> None:
    """Fold each BatchNorm into its layer and put a :class:`FoldedBatchNorm` in its place.

    The weight stays the same parameter; a layer without a bias gets one.

    Args:
        pairs: layer -> BatchNorm, as ``find_folds`` gives them.

    >>> fold_(model, find_folds(model, ["conv"])[0])
    """
    places = holders(model)
    for name, after in pairs.items():
        layer, norm = model.get_submodule(name), model.get_submodule(after)
        assert isinstance(norm, BATCH_NORMS)
        weight, bias = folded_parameters(layer, norm)
        own = layer._parameters["weight"]
        assert own is not None  # find_folds looked
        with torch.no_grad():
            own.copy_(weight)
            if (own_bias := layer._parameters["bias"]) is not None:
                own_bias.copy_(bias)
            else:
                layer.bias = nn.Parameter(bias.to(own.dtype), requires_grad=own.requires_grad)
        ((parent, key),) = places[id(norm)]
        stand_in = FoldedBatchNorm(type(norm).__name__, norm.num_features, name)
        parent._modules[key] = stand_in.train(norm.training)


def folded_parameters(layer: nn.Module, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(weight, bias), fp32, of a layer that computes ``norm(layer(x))`` in eval mode."""
    weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
    mean, var = norm.running_mean, norm.running_var
    gamma, beta = norm._parameters.get("weight"), norm._parameters.get("bias")
    assert weight is not None  # this and the statistics: find_folds looked
    assert mean is not None
    assert var is not None
    with torch.no_grad():
        scale = torch.ones_like(var) if gamma is None else gamma.float()
        shift = torch.zeros_like(mean) if beta is None else beta.float()
        start = torch.zeros_like(mean) if bias is None else bias.float()
        factor = scale / torch.sqrt(var.float() + norm.eps)
        by_output = factor.reshape(-1, *[1] * (weight.dim() - 1))
        return weight.float() * by_output, (start - mean) * factor + shift


def _why_not(layer: nn.Module, norm: _BatchNorm, owners: Mapping[int, int]) -> str:
    """Why a BatchNorm can not be folded into the layer before it, "" if it can."""
    if type(norm) not in (FOLDABLE.get(type(layer)), nn.SyncBatchNorm):
        return f"{type(norm).__name__} after {type(layer).__name__} may compute something else"
    if foreign_hooks(layer) or foreign_hooks(norm):
        listed = ", ".join(dict.fromkeys(foreign_hooks(layer) + foreign_hooks(norm)))
        return f"it or the layer carries what folding would change: {listed}"
    weight = layer._parameters.get("weight")
    if weight is None or weight.shape[0] != norm.num_features:
        return "the layer's weight is no parameter with one row a channel"
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics"
    tensors = [*layer._parameters.values(), *norm._parameters.values()]
    if any(owners[id(tensor)] > 1 for tensor in tensors if tensor is not None):
        return "a parameter of it or of the layer is shared with another module"
    if not all(bool(torch.isfinite(tensor).all()) for tensor in folded_parameters(layer, norm)):
        return "the folded weights would not be finite"
    return ""
