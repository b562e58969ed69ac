"""Pruning in one shot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from sparsekd.modules import Selector, select, weight_mask
from sparsekd.prune._masks import PRUNABLE, compute_mask, set_mask
from sparsekd.prune._scores import Score, score_from
from sparsekd.spec import Pattern, pattern_from

__all__ = ["PruneReport", "PrunedLayer", "prune_", "report_on"]


@dataclass(frozen=True)
class PrunedLayer:
    """How many weights of a layer are kept."""

    name: str
    kept: int
    total: int

    @property
    def sparsity(self) -> float:
        """The share of weights that is masked, 0..1."""
        return 1.0 - self.kept / self.total if self.total else 0.0


@dataclass(frozen=True)
class PruneReport:
    """What pruning left, layer by layer; ``str()`` gives a table."""

    layers: tuple[PrunedLayer, ...]

    @property
    def sparsity(self) -> float:
        """The share of the weights of all these layers that is masked, 0..1."""
        return self._total().sparsity

    def _total(self) -> PrunedLayer:
        kept, total = sum(r.kept for r in self.layers), sum(r.total for r in self.layers)
        return PrunedLayer("total", kept, total)

    def __str__(self) -> str:
        rows = [*self.layers, self._total()]
        width = max(len(row.name) for row in rows)
        lines = [f"{'layer':<{width}}  {'kept':>12}  {'of':>12}  sparsity"]
        lines += [
            f"{row.name:<{width}}  {row.kept:>12,}  {row.total:>12,}  {row.sparsity:>7.2%}"
            for row in rows
        ]
        return "\n".join(lines)


def report_on(layers: Iterable[tuple[str, nn.Module]]) -> PruneReport:
    """Count the kept weights of named modules."""
    rows = []
    for name, module in layers:
        mask = weight_mask(module)
        if mask is not None:
            rows.append(PrunedLayer(name or "(the model)", int(mask.sum()), mask.numel()))
    return PruneReport(tuple(rows))


def prune_(
    model: nn.Module,
    pattern: Pattern | str,
    *,
    score: Score | str = "magnitude",
    include: Selector | Iterable[Selector] = (),
    exclude: Selector | Iterable[Selector] = (),
) -> PruneReport:
    """Prune Linear and Conv layers at once, in place.

    Each chosen layer gets the bool buffer ``weight_mask``; masked weights are zero and stay so
    under any optimizer. What an earlier call masked stays masked.

    Args:
        pattern: which positions may be kept, such as ``NM(8, 32)`` or ``"8:32"``.
        score: "magnitude", or a function weight -> score of the same shape.
        include, exclude: layers by name glob or type.

    Returns:
        The kept weights of each layer.

    Raises:
        ValueError: an unknown pattern, score or selector, or a score of the wrong shape; the model
            is unchanged.

    >>> prune_(model, NM(8, 32)).sparsity
    0.75
    """
    chosen, rank = pattern_from(pattern), score_from(score)
    layers = select(model, include, exclude, PRUNABLE)
    masks = []
    for name, module in layers:
        try:
            masks.append(compute_mask(module, chosen, rank))
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    for (_, module), mask in zip(layers, masks, strict=True):
        set_mask(module, mask)
    return report_on(layers)
