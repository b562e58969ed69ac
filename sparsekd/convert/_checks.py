"""Which layers conversion leaves alone, and which it refuses to touch, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from sparsekd import backend
from sparsekd.convert._kinds import LAYERS, TorchLayer, sizes_of
from sparsekd.flow import foreign_hooks
from sparsekd.modules import quant_spec

__all__ = ["refuse_hooks", "refuse_outside_ties", "why_torch"]


def refuse_hooks(layers: Mapping[str, nn.Module]) -> None:
    """Raise for layers to be replaced that carry foreign hooks.

    Raises:
        ValueError: naming every such layer and what is on it.
    """
    found = {name: foreign_hooks(module) for name, module in layers.items()}
    listed = [
        f"{name!r} ({', '.join(dict.fromkeys(what))})" for name, what in found.items() if what
    ]
    if not listed:
        return
    remedy = ""
    if any(parametrize.is_parametrized(module) for module in layers.values()):
        remedy = (
            " (torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') makes a "
            "parametrized weight plain)"
        )
    raise ValueError(
        f"replacing {', '.join(listed)} would drop what is attached there; remove it first"
        f"{remedy}, or leave the layer out of the conversion with exclude"
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


def why_torch(module: TorchLayer) -> str:
    """Why the engine can not stand for this layer; "" where it can."""
    quantized = quant_spec(module) is not None
    if not quantized and type(module) not in LAYERS:
        kind = next(kind.__name__ for kind in LAYERS if isinstance(module, kind))
        return f"{type(module).__name__} is a subclass of nn.{kind} and may compute something else"
    weight, bias = module.weight, module.bias
    for tensor in (weight, bias):
        if tensor is not None and tensor.device.type != "cpu":
            return f"its tensors are on {tensor.device}; the engine runs on the CPU"
        if tensor is not None and tensor.dtype != torch.float32:
            return f"its tensors are {str(tensor.dtype)[6:]}; the engine takes float32"
    extra = _extra(module._parameters, {"weight", "bias"}) + _extra(module._modules, set())
    if not quantized:  # a fake-quantized layer has buffers of its own: ranges and observers
        extra += _extra(module._buffers, {"weight_mask"})
    if extra:
        return f"it holds more than a weight and a bias: {', '.join(extra)}"
    return "" if isinstance(module, nn.Linear) else _why_not_conv(module)


def _why_not_conv(module: nn.Conv1d | nn.Conv2d) -> str:
    if module.padding_mode != "zeros":
        return f"padding_mode {module.padding_mode!r}; the engine pads with zeros"
    sizes = sizes_of(module)
    kernel, stride, dilation = (
        _pair(sizes[key], 1) for key in ("kernel_size", "stride", "dilation")
    )
    padding = sizes["padding"]
    height, width = (0, 0) if isinstance(padding, str) else _pair(padding, 0)
    channels = (module.in_channels, module.out_channels)
    pads = (height, height, width, width)
    try:
        geometry = (channels, kernel, stride, dilation, pads, module.groups)
        backend.ConvGeometry(*geometry).native()
    except ValueError as error:
        return f"the engine has no such convolution ({error})"
    return ""


def _pair(value: object, first: int) -> tuple[int, int]:
    """(height, width) of one or two sizes; ``first`` is the height of a Conv1d."""
    assert isinstance(value, list)
    height, width = value if len(value) == 2 else (first, *value)
    return height, width


def _extra(names: Iterable[str], known: set[str]) -> list[str]:
    return [name for name in names if name not in known]
