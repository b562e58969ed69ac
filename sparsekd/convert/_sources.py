"""Layers whose weight is not a plain parameter: sparse tensors, and masks of torch's own pruning.

``torch.nn.utils.prune`` keeps ``weight_orig`` and ``weight_mask`` and multiplies them in a forward
pre-hook. That hook is part of how the weight is stored, not of what the user wants to see done at
every call, so conversion applies the mask and drops it. The same holds for the hook that
``weight_norm`` leaves behind when its parametrization is removed, which only renames the entries of
old checkpoints. Any other hook is refused as ever.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import BasePruningMethod

from sparsekd.convert._kinds import LAYERS

__all__ = ["plain_layers", "view_of"]

_TENSORS = ("weight", "bias")


def plain_layers(model: nn.Module) -> dict[int, nn.Module]:
    """By id, a plain twin of every layer whose weight or bias is sparse, pruned or no parameter.

    A twin shares everything with its layer but these tensors and the hooks named above; a weight
    that was pruned comes with a bool ``weight_mask``.
    """
    return {
        id(module): _plain(module)
        for module in model.modules()
        if isinstance(module, LAYERS) and not _is_plain(module)
    }


def view_of(model: nn.Module, twins: Mapping[int, nn.Module]) -> nn.Module:
    """The model with its twins in place; a copy that shares all tensors, the model if none.

    Raises:
        TypeError: the model can not be copied.
    """
    if not twins:
        return model
    memo: dict[int, Any] = {}
    for module in model.modules():
        tensors = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
        memo.update({id(t): t for t in tensors if isinstance(t, Tensor)})
    memo.update(twins)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever a user's attribute raises when copied
        raise TypeError(
            f"{type(model).__name__} can not be deep-copied ({error}), which layers with sparse "
            "or pruned weights need; make them plain first (torch.nn.utils.prune.remove)"
        ) from error


def _is_plain(module: nn.Module) -> bool:
    if parametrize.is_parametrized(module):
        return True  # refused with the remedy later
    if _leftovers(module):
        return False
    for key in _TENSORS:
        tensor: Tensor | None = getattr(module, key)
        if tensor is None:
            continue
        if tensor.layout is not torch.strided or tensor is not module._parameters.get(key):
            return False
    return True


def _leftovers(module: nn.Module) -> list[int]:
    """Keys of the load_state_dict pre-hooks that removed parametrizations left behind."""
    return [
        key
        for key, hook in module._load_state_dict_pre_hooks.items()
        if getattr(getattr(hook, "hook", hook), "__module__", "") == parametrizations.__name__
    ]


def _plain(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    state, found = twin.__dict__, {key: getattr(module, key) for key in _TENSORS}
    state["_parameters"] = dict(module._parameters)
    state["_buffers"] = dict(module._buffers)
    state["_forward_pre_hooks"] = module._forward_pre_hooks.copy()
    state["_load_state_dict_pre_hooks"] = module._load_state_dict_pre_hooks.copy()
    for number in _leftovers(module):
        del state["_load_state_dict_pre_hooks"][number]
    for number, hook in module._forward_pre_hooks.items():
        name = getattr(hook, "_tensor_name", None)
        if isinstance(hook, BasePruningMethod) and name in _TENSORS:
            del state["_forward_pre_hooks"][number]
            mask = state["_buffers"].pop(f"{name}_mask")
            original = state["_parameters"].pop(f"{name}_orig")
            # The attribute is as of the last call; an optimizer may have moved the original since.
            found[name] = torch.where(mask != 0, original.detach(), 0.0)
            if name == "weight":
                state["_buffers"]["weight_mask"] = mask != 0
    for key, tensor in found.items():
        state.pop(key, None)
        state["_buffers"].pop(key, None)
        if tensor is not None:
            dense = tensor.detach()
            dense = dense if dense.layout is torch.strided else dense.to_dense()
            tensor = nn.Parameter(dense, requires_grad=False)
        state["_parameters"][key] = tensor
    return twin
