"""Builds the coverage report of a conversion."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from sparsekd.choice import Machine, TuneReport
from sparsekd.convert._kinds import ENGINE_LAYERS, LAYERS, EngineLayer, scheme_text
from sparsekd.convert._parts import sparsity_of
from sparsekd.convert._report import ConversionReport, ConversionRow
from sparsekd.convert._restore import FusedActivation
from sparsekd.flow import FoldedBatchNorm

__all__ = ["report_of"]


def report_of(
    model: nn.Module,
    engines: Mapping[str, EngineLayer],
    reasons: Mapping[str, str],
    absorbed: Mapping[str, tuple[str, str]],
    stay: Mapping[int, str],
    failure: str,
    tuning: TuneReport | None = None,
    padding: str = "",
) -> ConversionReport:
    """A row for every leaf, and for every module that owns parameters beside its children.

    Args:
        model: as it was before.
        engines: the new layers by name.
        reasons: why they, or engine layers that were there before, have their kernels.
        absorbed: BatchNorm or activation -> (kernel, reason) of its row.
        stay: by id, why a module stays, or goes back, in torch.
        failure: why the data flow could not be traced.
        tuning: what was measured.
        padding: a note on what masks cost.
    """
    rows = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if name in engines:
            rows.append(_engine_row(name, module, engines[name], reasons[name]))
        elif name in absorbed:
            kernel, reason = absorbed[name]
            rows.append(ConversionRow(name, kind, kernel, None, None, None, reason))
        elif isinstance(module, FoldedBatchNorm):
            reason = f"a {module.kind}, in the weights of {module.layer!r} already"
            rows.append(ConversionRow(name, kind, "folded", None, None, None, reason))
        elif isinstance(module, FusedActivation):
            reason = "runs in the engine layer before"
            rows.append(ConversionRow(name, kind, "fused", None, None, None, reason))
        elif isinstance(module, EngineLayer) and id(module) not in stay:
            reason = reasons.get(name, "already an engine layer")
            rows.append(_engine_row(name, module, module, reason))
        elif (
            isinstance(module, (*LAYERS, *ENGINE_LAYERS))
            or not module._modules
            or module._parameters
        ):
            reason = stay.get(id(module)) or f"no engine kernel for {kind}"
            sparsity = sparsity_of(module)
            rows.append(ConversionRow(name, kind, "torch", None, None, sparsity, reason))
    notes = []
    if failure:
        notes.append(
            "the data flow could not be traced, so BatchNorm was folded and activations were fused "
            f"only inside nn.Sequential ({failure})"
        )
    if padding:
        notes.append(padding)
    if tuning is not None and (other := tuning.machine.unlike(Machine.here())):
        notes.append(f"kernels were measured with another {other}: {tuning.machine}")
    return ConversionReport(tuple(rows), tuple(notes), tuning)


def _engine_row(name: str, module: nn.Module, engine: EngineLayer, reason: str) -> ConversionRow:
    total = math.prod(engine._weight_shape)
    sparsity = 1.0 - engine.kept() / max(total, 1)
    return ConversionRow(
        name,
        type(module).__name__,
        engine.kernel,
        scheme_text(engine.scheme),
        engine.activation,
        sparsity,
        reason,
        engine.efficiency() if engine.kernel == "windowed" else None,
    )
