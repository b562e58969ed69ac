"""Which layers conversion leaves alone, and which it refuses to touch, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from sparsekd.flow import foreign_hooks, weight_readers
from sparsekd.modules import quant_spec

__all__ = ["foreign_hooks", "refuse_hooks", "refuse_outside_ties", "weight_readers", "why_torch"]


def refuse_hooks(layers: Mapping[str, nn.Module]) -> None:
    """Raise for layers to be replaced that carry foreign hooks.

    Raises:
        ValueError: naming every such layer and what is on it.
    """
    found = {name: foreign_hooks(module) for name, module in layers.items()}
    listed = [
        f"{name!r} ({', '.join(dict.fromkeys(what))})" for name, what in found.items() if what
    ]
    if listed:
        raise ValueError(
            f"replacing {', '.join(listed)} would drop what is attached there; remove it first, or "
            "leave the layer out of the conversion with exclude"
        )


def refuse_outside_ties(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Raise for layers to be replaced that share a parameter with a module that stays.

    Raises:
        ValueError: naming the layer and the other place.
    """
    replaced = {id(module) for module in layers.values()}
    staying: dict[int, str] = {}
    for name, module in model.named_modules():
        if id(module) not in replaced:
            for key, parameter in module._parameters.items():
                staying[id(parameter)] = f"{name}.{key}" if name else key
    for name, module in layers.items():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in staying:
                raise ValueError(
                    f"layer {name!r}: its {key} is tied to {staying[id(parameter)]!r}, which "
                    f"stays a torch tensor; untie them or leave the layer out with exclude"
                )


def why_torch(module: nn.Linear) -> str:
    """Why the engine can not stand for this layer; "" where it can."""
    quantized = quant_spec(module) is not None
    if not quantized and type(module) is not nn.Linear:
        return f"{type(module).__name__} is a subclass of nn.Linear and may compute something else"
    weight, bias = module.weight, module.bias
    for tensor in (weight, bias):
        if tensor is not None and tensor.device.type != "cpu":
            return f"its tensors are on {tensor.device}; the engine runs on the CPU"
        if tensor is not None and tensor.dtype != torch.float32:
            return f"its tensors are {str(tensor.dtype)[6:]}; the engine takes float32"
    extra = _extra(module._parameters, {"weight", "bias"}) + _extra(module._modules, set())
    if not quantized:  # a fake-quantized layer has buffers of its own: ranges and observers
        extra += _extra(module._buffers, {"weight_mask"})
    return f"it holds more than a weight and a bias: {', '.join(extra)}" if extra else ""


def _extra(names: Iterable[str], known: set[str]) -> list[str]:
    return [name for name in names if name not in known]
