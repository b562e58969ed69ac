"""From times to a choice: pure functions of what each option took in each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from sparsekd.benchmark import Samples
from sparsekd.choice._options import Option

__all__ = ["MARGIN", "MIN_ROUNDS", "decide"]

MARGIN = 1.10
"""The dense kernel stays unless another one is so many times as fast: a difference below that moves
with the machine's mood, and a sparse format has no other merit where it is not faster."""

MIN_ROUNDS = 5
_CLOSE = 0.05  # a ratio that stays this near its threshold can fall either way


def decide(rounds: Mapping[Option, Sequence[float]], default: Option | None) -> tuple[Option, bool]:
    """The option to keep, and whether more rounds could still change that.

    Options are compared round by round, since a machine drifts from one round to the next: the
    ratio of two options is the median of their ratios in each round.

    Args:
        rounds: for each option its time in each round, seconds; all of one length, at least 1.
        default: kept unless the fastest of the others is ``MARGIN`` times as fast; None where there
            is no such option.

    Returns:
        ``(option, settled)``. It is settled when the ratios that decide it, without the most
        extreme tenth on either side, lie all on one side of the threshold, or all close to it.

    >>> decide({Option("dense"): [2.0], Option("windowed"): [1.0]}, Option("dense"))
    (Option(kernel='windowed', window=None, probe=None), False)
    """
    others = sorted((o for o in rounds if o != default), key=lambda o: median(rounds[o]))
    if not others:
        assert default is not None  # callers offer at least one option
        return default, True
    first, settled = others[0], True
    if default is not None:
        ratios = _ratios(rounds[first], rounds[default])
        settled = _is_settled(ratios, 1 / MARGIN)
        if median(ratios) > 1 / MARGIN:
            return default, settled
    if len(others) > 1:
        settled = settled and _is_settled(_ratios(rounds[first], rounds[others[1]]), 1.0)
    return first, settled


def _ratios(times: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a / b if b > 0 else 1.0 for a, b in zip(times, others, strict=True)]


def _is_settled(ratios: Sequence[float], threshold: float) -> bool:
    if len(ratios) < MIN_ROUNDS:
        return False
    samples = Samples(tuple(ratios))
    low, high = samples.p10 / threshold, samples.p90 / threshold
    return low > 1 or high < 1 or (low > 1 - _CLOSE and high < 1 + _CLOSE)
