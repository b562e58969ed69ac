"""From times to a choice: the margin of the dense option, when it is settled, the break-even."""

from __future__ import annotations

import pytest

from sparsekd.choice import MARGIN, BreakEven, Option, break_even, decide
from sparsekd.choice._decide import MIN_ROUNDS

DENSE, SPARSE, CSR = Option("dense"), Option("windowed"), Option("csr")


def steady(**seconds: float) -> dict[Option, list[float]]:
    return {Option(kernel): [time] * MIN_ROUNDS for kernel, time in seconds.items()}


@pytest.mark.parametrize(
    ("ratio", "kept"), [(0.5, SPARSE), (0.90, SPARSE), (0.92, DENSE), (1.0, DENSE), (3.0, DENSE)]
)
def test_dense_stays_unless_another_option_beats_it_by_the_margin(ratio, kept):
    assert MARGIN == 1.1
    assert decide(steady(dense=1.0, windowed=ratio), DENSE) == (kept, True)


def test_among_options_that_beat_dense_the_fastest_is_kept():
    assert decide(steady(dense=1.0, windowed=0.5, csr=0.4), DENSE) == (CSR, True)
    assert decide(steady(dense=1.0, windowed=0.3, csr=0.4), DENSE) == (SPARSE, True)
    assert decide(steady(windowed=0.3, csr=0.4), None) == (SPARSE, True)
    assert decide(steady(dense=1.0), DENSE) == (DENSE, True)
    assert decide(steady(csr=1.0), None) == (CSR, True)


def test_options_are_compared_round_by_round_since_the_machine_drifts():
    drift = [1.0, 2.0, 5.0, 3.0, 9.0]
    rounds = {DENSE: drift, SPARSE: [0.8 * d for d in drift]}
    assert decide(rounds, DENSE) == (SPARSE, True)


def test_it_is_settled_only_by_enough_rounds_that_agree():
    few = {o: times[1:] for o, times in steady(dense=1.0, windowed=0.5).items()}
    assert decide(few, DENSE) == (SPARSE, False)
    disagree = {DENSE: [1.0] * 6, SPARSE: [0.5, 1.5, 0.5, 1.5, 0.5, 0.5]}
    assert decide(disagree, DENSE) == (SPARSE, False)
    outlier = {DENSE: [1.0] * 12, SPARSE: [0.5] * 11 + [7.0]}
    assert decide(outlier, DENSE) == (SPARSE, True)


def test_options_that_stay_close_to_the_threshold_are_settled_as_well():
    near = [0.93, 0.89, 0.90, 0.92, 0.91, 0.90]
    assert decide({DENSE: [1.0] * 6, SPARSE: near}, DENSE)[1]
    rivals = {DENSE: [9.0] * 6, SPARSE: [1.0] * 6, CSR: [1.01, 0.99, 1.02, 1.0, 1.01, 1.03]}
    assert decide(rivals, DENSE) == (SPARSE, True)
    unsure = {DENSE: [9.0] * 6, SPARSE: [1.0] * 6, CSR: [1.5, 0.7, 1.5, 1.5, 0.7, 1.5]}
    assert decide(unsure, DENSE) == (SPARSE, False)


def test_times_below_the_clock_are_no_error():
    assert decide({DENSE: [0.0] * 5, SPARSE: [0.0] * 5}, DENSE)[0] == DENSE


@pytest.mark.parametrize(
    ("target", "found", "text"),
    [
        (4.0, BreakEven(0.5, "below"), "below 50 %"),
        (3.0, BreakEven(0.625), "62 %"),
        (2.0, BreakEven(0.75), "75 %"),
        (1.5, BreakEven(0.8125), "81 %"),
        (0.9, BreakEven(0.875, "above"), "above 87.5 %"),
    ],
)
def test_break_even_lies_on_the_line_between_two_sparsities(target, found, text):
    assert break_even({0.875: 1.0, 0.5: 4.0, 0.75: 2.0}, target) == found
    assert str(found) == text
