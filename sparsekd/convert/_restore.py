"""Putting modules in place of others, and engine layers back into torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsekd.convert._kinds import EngineLayer, TorchLayer
from sparsekd.flow import FoldedBatchNorm, holders
from sparsekd.nn import Conv1d, Conv2d, Linear

__all__ = [
    "FoldedNorm",
    "FusedActivation",
    "substitute",
    "tie_parameters",
    "to_float",
    "torch_activation",
]

_MODULES = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}


class FusedActivation(nn.Identity):
    """Stands where an activation was that now runs inside an engine layer.

    It is an ``nn.Identity`` that remembers both, so that ``to_float`` can put the activation back
    and ``save`` can say where it was. They are held in a tuple: a plain attribute would register
    them as submodules a second time.

    >>> FusedActivation(nn.ReLU(), layer)(x) is x
    True
    """

    def __init__(self, original: nn.Module, layer: EngineLayer) -> None:
        super().__init__()
        self._parts = (original, layer)

    @property
    def original(self) -> nn.Module:
        """The activation module that was replaced."""
        return self._parts[0]

    @property
    def layer(self) -> nn.Module:
        """The engine layer that runs the activation."""
        return self._parts[1]

    def extra_repr(self) -> str:
        return f"{self.original!r} runs in the layer before"


class FoldedNorm(FoldedBatchNorm):
    """Stands where a BatchNorm was that is part of an engine layer now.

    It takes only what that BatchNorm took: a BatchNorm1d after a Linear has its channels in another
    place when the input has three dimensions, where the folded layer would compute something else.

    Args:
        kind, num_features, layer: as in ``FoldedBatchNorm``.
        engine: the engine layer.
    """

    is_folded_norm: ClassVar[bool] = True  # for verify, which does not import this

    def __init__(self, kind: str, num_features: int, layer: str, engine: EngineLayer) -> None:
        super().__init__(kind, num_features, layer)
        self._parts = (engine,)
        # What a batch has; no BatchNorm takes less.
        self.dims = {Linear: 2, Conv1d: 3, Conv2d: 4}[type(engine)]

    @classmethod
    def of(cls, norm: nn.Module, layer: str, engine: EngineLayer) -> FoldedNorm:
        """In the place of a BatchNorm, or of what stands there already."""
        kind = norm.kind if isinstance(norm, FoldedBatchNorm) else type(norm).__name__
        assert isinstance(norm.num_features, int)  # callers looked
        return cls(kind, norm.num_features, layer, engine).train(norm.training)

    @property
    def engine(self) -> EngineLayer:
        """The engine layer that the BatchNorm is part of."""
        return self._parts[0]

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != self.dims:
            raise ValueError(
                f"{self.layer!r} took in a {self.kind}, which takes {self.dims} dimensions here; "
                f"got shape {tuple(input.shape)}"
            )
        return input


def substitute(model: nn.Module, new: Mapping[int, nn.Module], *, inplace: bool) -> nn.Module:
    """Put ``new[id(module)]`` in the place of every such module of ``model``.

    Args:
        model: the model to change.
        new: replacement by ``id`` of the module that goes.
        inplace: change ``model`` itself; else a deep copy, which does not copy what goes.

    Returns:
        the changed model; the replacement itself where ``model`` is what goes.

    Raises:
        ValueError: ``inplace`` for a model that is itself to be replaced.
        TypeError: the model can not be deep-copied.
    """
    if inplace:
        if id(model) in new:
            raise ValueError(
                f"the model is itself the {type(model).__name__} to be replaced, which can not "
                "happen in place; use inplace=False and take the result"
            )
        for key, places in holders(model).items():
            if key in new:
                for parent, child in places:
                    parent._modules[child] = new[key]
        return model
    memo: dict[int, Any] = dict(new)
    for parameter in model.parameters():
        if parameter.layout is not torch.strided:  # torch can clone but not deep-copy these
            clone = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            memo.setdefault(id(parameter), clone)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever a user's attribute raises when copied
        raise TypeError(
            f"{type(model).__name__} can not be deep-copied ({error}); pass inplace=True"
        ) from error


def to_float(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Turn engine layers back into torch's own and put fused activations back.

    The weights are those that the engine computes with (int8: integer times scale); buffer
    ``weight_mask`` marks the ones that are kept where any is zero. Layers that shared their packed
    weight share one ``Parameter`` again. A BatchNorm that was folded stays in the weights, and a
    ``FoldedBatchNorm``, which does nothing, in its place. An engine layer with an activation that
    did not come from a module of this model becomes ``nn.Sequential(layer, activation)``.

    Args:
        model: a converted or loaded model.
        inplace: change ``model`` itself instead of a deep copy.

    Returns:
        the model in torch modules; other modules are as they were.

    Raises:
        ValueError: ``inplace`` for a model that is itself an engine layer.

    >>> student = sparsekd.to_float(sparsekd.load("student.safetensors", Student()))
    >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    """
    fused = [module for module in model.modules() if isinstance(module, FusedActivation)]
    covered = {id(module.layer) for module in fused}
    new: dict[int, nn.Module] = {id(m): copy.deepcopy(m.original) for m in fused}
    for module in model.modules():
        if isinstance(module, FoldedNorm):
            stand_in = FoldedBatchNorm(module.kind, module.num_features, module.layer)
            new[id(module)] = stand_in.train(module.training)
    shared: dict[int, nn.Parameter] = {}
    for layer in model.modules():
        if not isinstance(layer, EngineLayer):
            continue
        plain = layer.to_float()
        tie_parameters(layer, plain, shared)
        if layer.activation is None or id(layer) in covered:
            new[id(layer)] = plain
        else:
            new[id(layer)] = nn.Sequential(plain, torch_activation(layer.activation)).train(
                layer.training
            )
    result = substitute(model, new, inplace=inplace)
    result.__dict__.pop("sparsekd_report", None)  # it no longer describes this model
    return result


def torch_activation(name: str) -> nn.Module:
    """The torch module of an activation that engine layers know, such as "relu"."""
    module: nn.Module = _MODULES[name]()
    return module


def tie_parameters(layer: EngineLayer, plain: TorchLayer, shared: dict[int, nn.Parameter]) -> None:
    """Give ``plain`` the parameters of an earlier layer that had the same packed buffers."""
    weight = layer._buffers["panels" if layer.kernel == "dense" else "values"]
    plain.weight = shared.setdefault(id(weight), nn.Parameter(plain.weight.detach()))
    bias = layer._buffers.get("bias")
    if bias is not None and plain.bias is not None:
        plain.bias = shared.setdefault(id(bias), nn.Parameter(plain.bias.detach()))
