"""Putting modules in place of others, and engine layers back into torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from sparsekd.convert._flow import holders
from sparsekd.nn import Linear

__all__ = ["FusedActivation", "substitute", "to_float"]

_MODULES = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class FusedActivation(nn.Identity):
    """Stands where an activation was that now runs inside an engine layer.

    It is an ``nn.Identity`` that remembers both, so that ``to_float`` can put the activation back
    and ``save`` can say where it was. They are held in a tuple: a plain attribute would register
    them as submodules a second time.

    >>> FusedActivation(nn.ReLU(), layer)(x) is x
    True
    """

    def __init__(self, original: nn.Module, layer: Linear) -> None:
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
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever a user's attribute raises when copied
        raise TypeError(
            f"{type(model).__name__} can not be deep-copied ({error}); pass inplace=True"
        ) from error


def to_float(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Turn engine layers back into ``nn.Linear`` and put fused activations back.

    The weights are those that the engine computes with (integer times scale); buffer
    ``weight_mask`` marks the ones that are kept where any is zero. Layers that shared their packed
    weight share one ``Parameter`` again. An engine layer with an activation that did not come from
    a module of this model becomes ``nn.Sequential(nn.Linear, activation)``.

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
    shared: dict[int, nn.Parameter] = {}
    for layer in model.modules():
        if not isinstance(layer, Linear):
            continue
        linear = layer.to_float()
        _tie(layer, linear, shared)
        linear.train(layer.training)
        if layer.activation is None or id(layer) in covered:
            new[id(layer)] = linear
        else:
            new[id(layer)] = nn.Sequential(linear, _MODULES[layer.activation]())
    result = substitute(model, new, inplace=inplace)
    result.__dict__.pop("sparsekd_report", None)  # it no longer describes this model
    return result


def _tie(layer: Linear, linear: nn.Linear, shared: dict[int, nn.Parameter]) -> None:
    """Give ``linear`` the parameters of an earlier layer that had the same packed buffers."""
    weight = layer._buffers["values" if layer.kernel == "windowed" else "panels"]
    linear.weight = shared.setdefault(id(weight), nn.Parameter(linear.weight.detach()))
    bias = layer._buffers.get("bias")
    if bias is not None and linear.bias is not None:
        linear.bias = shared.setdefault(id(bias), nn.Parameter(linear.bias.detach()))
