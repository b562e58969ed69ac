"""How much a weight is worth keeping."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["Score", "magnitude", "score_from"]

#: weight -> score of the same shape; the higher, the more worth keeping.
Score = Callable[[Tensor], Tensor]


def magnitude(weight: Tensor) -> Tensor:
    """The absolute value (Han et al., "Learning both Weights and Connections", 2015)."""
    return weight.abs()


_BY_NAME: dict[str, Score] = {"magnitude": magnitude}


def score_from(score: Score | str) -> Score:
    """A score from its short name.

    Raises:
        ValueError: the name is unknown; the message lists the choices.
    """
    if callable(score):
        return score
    if score not in _BY_NAME:
        raise ValueError(
            f"unknown score {score!r}; expected a function weight -> score, or one of: "
            + ", ".join(_BY_NAME)
        )
    return _BY_NAME[score]
