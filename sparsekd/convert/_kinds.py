"""The kinds of torch layer that the engine has, and how a layer of either side is described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import nn

from sparsekd.nn import Conv1d, Conv2d, Linear
from sparsekd.spec import Int8, Scheme

__all__ = [
    "ENGINES",
    "ENGINE_LAYERS",
    "LAYERS",
    "EngineLayer",
    "Sizes",
    "TorchLayer",
    "engine_of",
    "is_depthwise",
    "is_pointwise",
    "scheme_text",
    "sizes_of",
]

EngineLayer = Linear | Conv1d | Conv2d
TorchLayer = nn.Linear | nn.Conv1d | nn.Conv2d
Sizes = dict[str, int | str | list[int]]

ENGINES: Final[Mapping[type[nn.Module], type[EngineLayer]]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
}
LAYERS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d)
ENGINE_LAYERS: Final = (Linear, Conv1d, Conv2d)

_LINEAR = ("in_features", "out_features")
_CHANNELS = ("in_channels", "out_channels", "groups")
_PER_DIMENSION = ("kernel_size", "stride", "padding", "dilation")


def engine_of(module: nn.Module) -> type[EngineLayer] | None:
    """The engine's kind for a torch or engine layer; a subclass counts as its torch kind."""
    for kind, engine in ENGINES.items():
        if isinstance(module, (kind, engine)):
            return engine
    return None


def sizes_of(module: nn.Module) -> Sizes:
    """The sizes of a torch or engine layer, by torch's names; pairs as lists, bias apart.

    Two layers of one kind with equal sizes take the same inputs and give outputs of one shape.

    >>> sizes_of(nn.Linear(3, 2))
    {'in_features': 3, 'out_features': 2}
    """
    engine = engine_of(module)
    if engine is None:
        raise TypeError(f"{type(module).__name__} is no layer that the engine knows")
    if engine is Linear:
        return {key: getattr(module, key) for key in _LINEAR}
    sizes: Sizes = {key: getattr(module, key) for key in _CHANNELS}
    dims = 1 if engine is Conv1d else 2
    for key in _PER_DIMENSION:
        value = getattr(module, key)
        if isinstance(value, int):
            sizes[key] = [value] * dims
        else:  # a tuple, or "same" or "valid"
            sizes[key] = value if isinstance(value, str) else list(value)
    return sizes


def is_depthwise(module: nn.Module) -> bool:
    """A convolution in which each channel is a group of its own; a torch or engine layer."""
    sizes = sizes_of(module)
    groups = sizes.get("groups", 1)
    return groups != 1 and sizes["in_channels"] == sizes["out_channels"] == groups


def is_pointwise(module: nn.Module) -> bool:
    """A Linear or a convolution that is one: 1x1, stride 1, no padding, one group."""
    sizes = sizes_of(module)
    if "groups" not in sizes:
        return True
    padding = sizes["padding"]
    pads = [] if isinstance(padding, str) else padding  # for 1x1 "same" is none either
    assert isinstance(pads, list)
    ones = [sizes["groups"]]
    for key in ("kernel_size", "stride"):
        value = sizes[key]
        assert isinstance(value, list)
        ones += value
    return all(size == 1 for size in ones) and not any(pads)


def scheme_text(scheme: Scheme) -> str:
    """The arithmetic as reports name it: "int8 dynamic", "int8 static", "fp32" or "bf16"."""
    name = type(scheme).__name__.lower()
    return f"{name} {scheme.activations}" if isinstance(scheme, Int8) else name
