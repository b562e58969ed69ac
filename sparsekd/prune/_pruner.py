"""Gradual pruning in the user's own training loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sparsekd.modules import Selector, select, weight_mask
from sparsekd.prune._masks import PRUNABLE, compute_mask, set_mask
from sparsekd.prune._one_shot import PruneReport, report_on
from sparsekd.prune._schedules import Constant, Schedule
from sparsekd.prune._scores import Score, score_from
from sparsekd.spec import NM, Pattern, Unstructured, pattern_from

__all__ = ["Pruner"]


class Pruner:
    """Raises the sparsity of a model step by step; never regrows a weight.

    The masks are buffers of the model and go with its ``state_dict``; ``Pruner.state_dict`` adds
    the step. To resume: build the model and the pruner as before, then load both.

    Args:
        model: pruned in place.
        pattern: the final pattern. NM(n, m) is approached through NM(m - 1, m), NM(m - 2, m), ...
        schedule: step -> share of the final sparsity, such as ``Cubic(begin, end)``.
        score: "magnitude", or a function weight -> score of the same shape.
        include, exclude: layers by name glob or type.

    Raises:
        ValueError: an unknown pattern, score or selector.

    >>> pruner = Pruner(model, NM(4, 32), schedule=Cubic(begin=100, end=1000))
    >>> optimizer.step(); pruner.step()
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | str,
        *,
        schedule: Schedule | None = None,
        score: Score | str = "magnitude",
        include: Selector | Iterable[Selector] = (),
        exclude: Selector | Iterable[Selector] = (),
    ) -> None:
        self.pattern = pattern_from(pattern)
        self.schedule = Constant() if schedule is None else schedule
        self._score = score_from(score)
        self._layers = select(model, include, exclude, PRUNABLE)
        self._step = 0
        self._applied: Pattern | None = None
        _partial(self.pattern, 0.0)  # an unknown kind of pattern is refused here, not mid-training
        for _, module in self._layers:
            # A mask of ones from the start: the keys of state_dict do not change while training.
            if weight_mask(module) is None:
                weight = module.weight
                assert isinstance(weight, torch.Tensor)
                set_mask(module, torch.ones_like(weight, dtype=torch.bool))

    def step(self) -> None:
        """Count one training step, after the optimizer's; update the masks when one is due."""
        fraction = self.schedule(self._step)
        self._step += 1
        if fraction is not None:
            self._apply(_partial(self.pattern, fraction))

    def finalize(self) -> PruneReport:
        """Bring every layer to the final pattern, wherever the schedule stands."""
        self._apply(self.pattern)
        return self.report()

    def report(self) -> PruneReport:
        """The kept weights of each layer, now."""
        return report_on(self._layers)

    @property
    def sparsity(self) -> float:
        """The share of weights that is masked now, 0..1."""
        return self.report().sparsity

    def state_dict(self) -> dict[str, Any]:
        """The step and the pattern; the masks are in the model's own state."""
        return {"step": self._step, "pattern": str(self.pattern)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved step.

        Raises:
            ValueError: the state is of another pattern, or is no pruner's state.
        """
        if set(state) != {"step", "pattern"}:
            raise ValueError(f"pruner state has keys {sorted(state)}, expected ['pattern', 'step']")
        if state["pattern"] != str(self.pattern):
            raise ValueError(
                f"pruner state is of pattern {state['pattern']}, this pruner's is {self.pattern}"
            )
        self._step = int(state["step"])
        self._applied = None

    def _apply(self, pattern: Pattern) -> None:
        if pattern == self._applied:
            return  # nothing that is masked comes back, so nothing would change
        for name, module in self._layers:
            try:
                set_mask(module, compute_mask(module, pattern, self._score))
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from error
        self._applied = pattern


def _partial(pattern: Pattern, fraction: float) -> Pattern:
    """The pattern with a share of the final sparsity; for n:m the next n above."""
    if fraction >= 1.0:
        return pattern
    if isinstance(pattern, NM):
        return NM(pattern.m - math.floor((pattern.m - pattern.n) * fraction), pattern.m)
    if isinstance(pattern, Unstructured):
        return Unstructured(pattern.sparsity * fraction)
    raise ValueError(f"gradual pruning knows NM and Unstructured, got {type(pattern).__name__}")
