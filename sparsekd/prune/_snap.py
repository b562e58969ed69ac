"""Fitting arbitrary masks to an n:m pattern, which the engine stores without padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekd.modules import Selector, select, weight_mask
from sparsekd.prune._masks import PRUNABLE, compute_mask, set_mask
from sparsekd.prune._scores import Score, score_from
from sparsekd.slots import count_slots, filling_pattern
from sparsekd.spec import NM, Pattern, pattern_from

__all__ = ["SnapReport", "SnappedLayer", "snap_"]

_WINDOW = 64  # inputs of an int8 window; those of fp32 and bf16 divide it
_MOST = 0.5  # of the kept weights; to drop more is to prune anew


@dataclass(frozen=True)
class SnappedLayer:
    """What fitting its mask to a pattern did to a layer.

    Attributes:
        pattern: the n:m pattern; None in a total.
        before, after: kept weights.
        energy, lost: sums of squares of the weights kept before, and of those dropped.
        slots_before, slots_after: of windowed int8, with the outputs as they come.
    """

    name: str
    pattern: NM | None
    before: int
    after: int
    energy: float
    lost: float
    slots_before: int
    slots_after: int

    @property
    def dropped(self) -> float:
        """The share of the kept weights that was dropped, 0..1."""
        return 1.0 - self.after / max(self.before, 1)

    @property
    def energy_dropped(self) -> float:
        """The share of the kept weights' sum of squares that was dropped, 0..1."""
        return self.lost / self.energy if self.energy else 0.0

    @property
    def filled_before(self) -> float:
        """The share of slots that held kept weights, 0..1; the others are padding."""
        return self.before / max(self.slots_before, 1)

    @property
    def filled_after(self) -> float:
        """The share of slots that hold kept weights now, 0..1."""
        return self.after / max(self.slots_after, 1)


@dataclass(frozen=True)
class SnapReport:
    """What fitting masks to patterns cost and saves, layer by layer; ``str()`` gives a table."""

    layers: tuple[SnappedLayer, ...]

    @property
    def total(self) -> SnappedLayer:
        """All layers as one."""
        rows = self.layers
        return SnappedLayer(
            "total",
            None,
            sum(r.before for r in rows),
            sum(r.after for r in rows),
            sum(r.energy for r in rows),
            sum(r.lost for r in rows),
            sum(r.slots_before for r in rows),
            sum(r.slots_after for r in rows),
        )

    def __str__(self) -> str:
        rows = [*self.layers, self.total]
        width = max(len(row.name) for row in rows)
        head = f"{'layer':<{width}}  pattern  {'kept before':>12}  {'after':>12}"
        lines = [f"{head}  dropped  energy   {'slots before':>13}  {'after':>13}  filled"]
        for row in rows:
            pattern = "" if row.pattern is None else str(row.pattern)
            lines.append(
                f"{row.name:<{width}}  {pattern:<7}  {row.before:>12,}  {row.after:>12,}  "
                f"{row.dropped:>7.2%}  {row.energy_dropped:>6.2%}  "
                f"{row.slots_before:>13,}  {row.slots_after:>13,}  "
                f"{row.filled_before:.0%} -> {row.filled_after:.0%}"
            )
        return "\n".join(lines)


def snap_(
    model: nn.Module,
    pattern: Pattern | str = "auto",
    *,
    score: Score | str = "magnitude",
    include: Selector | Iterable[Selector] = (),
    exclude: Selector | Iterable[Selector] = (),
) -> SnapReport:
    """Fit the masks of Linear and Conv layers to an n:m pattern, in place.

    An arbitrary mask leaves much of the windowed format as padding (docs/formats.md). This drops,
    of every group of m inputs that keeps more than n, those with the lowest score, so that all
    outputs need the same number of steps. Nothing that was zero comes back, and no value changes.
    Fine-tune afterwards, as after pruning.

    A layer's mask is the one that pruning recorded, else its zeros. Layers without either have
    nothing to fit and are left alone, as are those that "auto" finds too dense to gain. Each layer
    that is fitted gets, or has, the bool buffer ``weight_mask``.

    Args:
        pattern: ``NM(8, 64)`` or ``"8:64"``, m a divisor of the 64 inputs of an int8 window; or
            "auto", for each layer the sparsest n:64 with n a multiple of 4 (which fills whole int8
            steps) that is at least as dense as its mask: 16:64 for 80 % of zeros, 8:64 for 90 %.
        score: "magnitude", or a function weight -> score of the same shape.
        include, exclude: layers by name glob or type.

    Returns:
        For each layer what was dropped, and the slots of windowed int8 before and after.

    Raises:
        ValueError: an unknown pattern, score or selector, a mask that is not bool, no layer with a
            mask, or a pattern that would drop more than half of a layer's kept weights; the model
            is unchanged.

    >>> prune_(model, Unstructured(0.9))
    >>> print(snap_(model))
    """
    rank, fixed = score_from(score), _checked(pattern)
    found = []
    for name, module in select(model, include, exclude, PRUNABLE):
        try:
            kept = _kept(module)
            chosen = fixed or filling_pattern(float(kept.float().mean()) if kept.numel() else 1.0)
            if bool(kept.all()) or chosen.n == chosen.m:
                continue
            mask = compute_mask(module, chosen, rank, among=kept)
            row = _row(name or "(the model)", module, chosen, kept, mask)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        found.append((module, mask, row))
    if not found:
        raise ValueError(
            "no chosen layer has a mask or zeros to fit to an n:m pattern; prune first, such as "
            "with prune_(model, 'unstructured:0.9')"
        )
    for module, mask, _ in found:
        set_mask(module, mask)
    return SnapReport(tuple(row for *_, row in found))


def _checked(pattern: Pattern | str) -> NM | None:
    """The n:m pattern that was asked for; None for "auto"."""
    if pattern == "auto":
        return None
    chosen = pattern_from(pattern)
    if not isinstance(chosen, NM):
        raise ValueError(f"snap_ fits masks to n:m patterns such as '8:64', got {chosen}")
    if _WINDOW % chosen.m:
        raise ValueError(
            f"snap_ needs n:m with m a divisor of the {_WINDOW} inputs of a window, got {chosen}"
        )
    return chosen


def _kept(module: nn.Module) -> Tensor:
    mask, weight = weight_mask(module), module.weight
    assert isinstance(weight, Tensor)  # every prunable kind has one
    if mask is None:
        return weight.detach() != 0
    if mask.dtype is not torch.bool:
        raise ValueError(
            f"its weight_mask is {mask.dtype}, expected the bool mask of prune_; "
            "torch.nn.utils.prune.remove makes one of torch's plain zeros"
        )
    return mask


def _row(name: str, module: nn.Module, pattern: NM, kept: Tensor, mask: Tensor) -> SnappedLayer:
    before, after = int(kept.sum()), int(mask.sum())
    if before - after > _MOST * before:
        raise ValueError(
            f"{pattern} would drop {1 - after / before:.0%} of its kept weights; snap_ fits a mask "
            "to a pattern of about its density, to prune further use prune_ (or exclude the layer)"
        )
    weight = module.weight
    assert isinstance(weight, Tensor)
    squares = weight.detach().double().square()
    groups = getattr(module, "groups", 1)
    return SnappedLayer(
        name,
        pattern,
        before,
        after,
        float(squares[kept].sum()),
        float(squares[kept & ~mask].sum()),
        count_slots(_by_tap(kept), groups),
        count_slots(_by_tap(mask), groups),
    )


def _by_tap(mask: Tensor) -> Tensor:
    """[outputs, channels of a group, *kernel] to [outputs, taps, channels of a group]."""
    outputs, channels = mask.shape[:2]
    return mask.movedim(1, -1).reshape(outputs, -1, channels)
