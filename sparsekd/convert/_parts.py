"""The layers that conversion may replace, each with everything that it can become."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from sparsekd.choice import Option
from sparsekd.convert._fuse import Chains, activation_name, folded_twin
from sparsekd.convert._kinds import EngineLayer, TorchLayer, engine_of, sizes_of
from sparsekd.convert._restore import FoldedNorm, FusedActivation, torch_activation
from sparsekd.flow import foreign_hooks
from sparsekd.modules import weight_mask
from sparsekd.spec import Fp32, Scheme

__all__ = ["TORCH", "Part", "engine_part", "float_part", "sparsity_of"]

TORCH = Option("torch")


@dataclass
class Part:
    """A layer that the engine can stand for.

    Attributes:
        name: of the layer in the model.
        layer: the layer, a torch or an engine one, its weight plain.
        scheme: the arithmetic that it gets.
        kept: share of the weights that are not zero, 0..1.
        norm, act: names of the BatchNorm and the activation that run inside its engine layer.
        build: makes the engine layer of an option.
        torch: makes what stands at the layer's, the norm's and the act's places in torch; None
            where that is no option.
        current: what the layer is already, for an engine layer.
        was_sparse: the weight came as a sparse tensor, so that torch's dense layer is no rival.
    """

    name: str
    layer: TorchLayer | EngineLayer
    scheme: Scheme
    kept: float
    norm: str | None
    act: str | None
    build: Callable[[Option], EngineLayer]
    torch: Callable[[], tuple[nn.Module, ...]] | None
    current: Option | None = None
    was_sparse: bool = False
    _built: dict[Option, EngineLayer] = field(default_factory=dict)

    def engine(self, option: Option) -> EngineLayer:
        """The engine layer of an option, built once."""
        if option not in self._built:
            self._built[option] = self.build(option)
        return self._built[option]

    def forget(self, *, but: Option | None = None) -> None:
        """Let go of engine layers that were built."""
        self._built = {o: engine for o, engine in self._built.items() if o == but}

    def settled(self, option: Option) -> Option:
        """The option with the window that the layer's mask settles, where none is named."""
        if option.kernel != "windowed" or not isinstance(self.scheme, Fp32):
            return option
        return Option("windowed", getattr(self.engine(option).scheme, "window", None))

    @property
    def weight_id(self) -> int:
        """The same for layers that share their weight."""
        if isinstance(self.layer, EngineLayer):
            return id(self.layer._buffers[self.layer._format.tensors[0]])
        return id(self.layer._parameters.get("weight"))

    @property
    def places(self) -> tuple[str, ...]:
        """The names of the layer and of what runs inside it."""
        return tuple(n for n in (self.name, self.norm, self.act) if n is not None)

    def modules(self, option: Option) -> tuple[nn.Module, ...]:
        """What stands at the places with an option, while it is measured."""
        if option == TORCH:
            assert self.torch is not None  # else it is no option
            return self.torch()
        return (self.engine(option), *(nn.Identity() for _ in self.places[1:]))

    @property
    def weights(self) -> int:
        """How many weights the layer has, zeros included."""
        return math.prod(self.shape)

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for a Linear."""
        groups = sizes_of(self.layer).get("groups", 1)
        assert isinstance(groups, int)
        return groups

    @property
    def shape(self) -> tuple[int, int, int]:
        """[outputs, taps, channels of a group]."""
        if isinstance(self.layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            outputs, channels, *kernel = self.layer.weight.shape
            return outputs, math.prod(kernel), channels
        return self.layer._weight_shape


def float_part(
    view: nn.Module, name: str, scheme: Scheme, chains: Chains, was_sparse: bool
) -> Part:
    """A torch layer, float or fake-quantized.

    Args:
        view: the model with plain weights.
        chains: what follows what; a BatchNorm is folded into float layers alone, since it would
            change a prepared one's integers.
    """
    layer: Any = view.get_submodule(name)
    norm = chains.norms.get(name)
    source = layer if norm is None else folded_twin(layer, view.get_submodule(norm))
    act = _activation_after(view, norm or name, chains)
    activation = None if act is None else activation_name(view.get_submodule(act))
    kind: Any = engine_of(layer)

    def build(option: Option) -> EngineLayer:
        try:
            made: EngineLayer = kind.from_float(
                source,
                scheme=_with_window(scheme, option),
                kernel=option.kernel,
                activation=activation,
                name=name,
            )
            return made
        except ValueError as error:
            if name in str(error):
                raise
            raise ValueError(f"layer {name!r}: {error}") from error

    def in_torch() -> tuple[nn.Module, ...]:
        # Copies that share all tensors: eval mode is theirs alone.
        places = [p for p in (name, norm, act) if p is not None]
        return tuple(copy.copy(view.get_submodule(place)).eval() for place in places)

    kept = 1.0 - (sparsity_of(source) or 0.0)
    stays = None if was_sparse else in_torch
    return Part(name, layer, scheme, kept, norm, act, build, stays, was_sparse=was_sparse)


def engine_part(view: nn.Module, name: str) -> Part:
    """An engine layer, whose weight can be put into another format."""
    layer: Any = view.get_submodule(name)
    fused = [n for n, m in view.named_modules() if _holds(m, FusedActivation, "layer", layer)]
    folded = any(_holds(m, FoldedNorm, "engine", layer) for m in view.modules())
    current = Option(layer.kernel, getattr(layer.scheme, "window", None))

    def build(option: Option) -> EngineLayer:
        if option in (current, Option(current.kernel)):
            return layer  # type: ignore[no-any-return]
        try:
            return layer.repacked(option.kernel, window=option.window)  # type: ignore[no-any-return]
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error

    def in_torch() -> tuple[nn.Module, ...]:
        plain = layer.to_float()
        if fused:
            original = view.get_submodule(fused[0]).original
            assert isinstance(original, nn.Module)
            return plain, copy.deepcopy(original)
        if layer.activation is None:
            return (plain,)
        return (nn.Sequential(plain, torch_activation(layer.activation)).eval(),)

    # A file that holds a folded BatchNorm names the engine layer that it is part of.
    stays = None if folded else in_torch
    kept = layer.kept() / max(math.prod(layer._weight_shape), 1)
    act = fused[0] if fused else None
    return Part(name, layer, layer.scheme, kept, None, act, build, stays, current)


def sparsity_of(module: nn.Module) -> float | None:
    """Share of zeros in a weight, masks applied; None without one, or without data."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or nn.parameter.is_lazy(weight):
        return None
    if weight.is_meta or weight.layout is not torch.strided:
        return None
    if weight.dim() < 2 or weight.numel() == 0:
        return None
    kept, mask = weight.detach().ne(0), weight_mask(module)
    return 1.0 - float((kept if mask is None else kept & mask.ne(0)).float().mean())


def _with_window(scheme: Scheme, option: Option) -> Scheme:
    if isinstance(scheme, Fp32) and option.window is not None:
        return replace(scheme, window=16 if option.window == 16 else 32)
    return scheme


def _activation_after(model: nn.Module, name: str, chains: Chains) -> str | None:
    """The activation that alone uses the output of a layer or BatchNorm, if it can be fused."""
    act = chains.after.get(name)
    if act is None:
        return None
    module = model.get_submodule(act)
    return None if activation_name(module) is None or foreign_hooks(module) else act


def _holds(module: nn.Module, kind: type[nn.Module], what: str, layer: nn.Module) -> bool:
    return isinstance(module, kind) and getattr(module, what) is layer
