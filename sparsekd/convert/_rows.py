"""Builds the coverage report of a conversion."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from sparsekd.convert._choose import sparsity_of
from sparsekd.convert._kinds import LAYERS, EngineLayer
from sparsekd.convert._report import ConversionReport, ConversionRow
from sparsekd.convert._restore import FusedActivation
from sparsekd.flow import FoldedBatchNorm
from sparsekd.spec import Int8

__all__ = ["report_of"]


def report_of(
    model: nn.Module,
    engines: Mapping[str, EngineLayer],
    reasons: Mapping[str, str],
    absorbed: Mapping[str, tuple[str, str]],
    stay: Mapping[int, str],
    failure: str,
) -> ConversionReport:
    """A row for every leaf, and for every module that owns parameters beside its children.

    Args:
        model: as it was before.
        engines, reasons: the new layers and why they have their kernels, by name.
        absorbed: BatchNorm or activation -> ("folded" or "fused", the layer that runs it).
        stay: by id, why a module stays.
        failure: why the data flow could not be traced.
    """
    rows = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if name in engines:
            rows.append(_engine_row(name, module, engines[name], reasons[name]))
        elif name in absorbed:
            how, layer = absorbed[name]
            rows.append(ConversionRow(name, kind, how, None, None, None, f"runs in {layer!r}"))
        elif isinstance(module, FoldedBatchNorm):
            reason = f"a {module.kind}, in the weights of {module.layer!r} already"
            rows.append(ConversionRow(name, kind, "folded", None, None, None, reason))
        elif isinstance(module, FusedActivation):
            reason = "runs in the engine layer before"
            rows.append(ConversionRow(name, kind, "fused", None, None, None, reason))
        elif isinstance(module, EngineLayer):
            rows.append(_engine_row(name, module, module, "already an engine layer"))
        elif isinstance(module, LAYERS) or not module._modules or module._parameters:
            reason = stay.get(id(module)) or f"no engine kernel for {kind}"
            sparsity = sparsity_of(module)
            rows.append(ConversionRow(name, kind, "torch", None, None, sparsity, reason))
    notes = []
    if failure:
        notes.append(
            "the data flow could not be traced, so BatchNorm was folded and activations were fused "
            f"only inside nn.Sequential ({failure})"
        )
    return ConversionReport(tuple(rows), tuple(notes))


def _engine_row(name: str, module: nn.Module, engine: EngineLayer, reason: str) -> ConversionRow:
    scheme = type(engine.scheme).__name__.lower()
    if isinstance(engine.scheme, Int8):
        scheme += f" {engine.scheme.activations}"
    total = math.prod(engine._weight_shape)
    sparsity = 1.0 - engine.kept() / max(total, 1)
    return ConversionRow(
        name, type(module).__name__, engine.kernel, scheme, engine.activation, sparsity, reason
    )
