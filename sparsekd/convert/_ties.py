"""Layers that share a parameter go on sharing its packed form."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sparsekd.convert._kinds import EngineLayer, TorchLayer

__all__ = ["share_ties"]


def share_ties(
    layers: Mapping[str, TorchLayer | EngineLayer], engines: Mapping[str, EngineLayer]
) -> None:
    """Let layers that share a parameter share the buffers that were made of it.

    Raises:
        ValueError: they pack differently, so that they can not stay tied.
    """
    for key in ("weight", "bias"):
        first: dict[int, str] = {}
        for name, layer in layers.items():
            parameter = _source(layer, key)
            if parameter is None or first.setdefault(id(parameter), name) == name:
                continue
            other = first[id(parameter)]
            ours, theirs = engines[name], engines[other]
            for buffer in _derived(ours, key) | _derived(theirs, key):
                a, b = ours._buffers.get(buffer), theirs._buffers.get(buffer)
                if not (isinstance(a, Tensor) and isinstance(b, Tensor) and _equal(a, b)):
                    raise ValueError(
                        f"layers {other!r} and {name!r} share one {key} but pack differently "
                        "(another mask, scheme or kernel); make these equal or exclude both"
                    )
                ours._buffers[buffer] = b


def _source(layer: TorchLayer | EngineLayer, key: str) -> Tensor | None:
    """The tensor that a tie is known by."""
    if isinstance(layer, EngineLayer):
        return layer._buffers.get("bias" if key == "bias" else layer._format.tensors[0])
    return layer._parameters.get(key)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


def _derived(layer: EngineLayer, key: str) -> set[str]:
    """The buffers of an engine layer that come from the float layer's weight or bias."""
    inputs = {"bias", "input_scale", "input_zero_point"}
    held = {name for name, buffer in layer._buffers.items() if buffer is not None}
    return {"bias"} & held if key == "bias" else held - inputs
