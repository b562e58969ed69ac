"""The guard of timings, with probes that say what a test wants. No test waits for a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from sparsekd import whole_cores
from sparsekd.benchmark import measure
from sparsekd.whole_cores import WholeCores, watch_cores


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_cores, "_REST_S", 0.0)


def guard_of(rates: Iterable[float], whole: float = 100.0) -> WholeCores:
    found = iter(rates)
    return WholeCores(lambda: next(found), whole)


def counting() -> tuple[list[int], Callable[[], list[float]]]:
    calls: list[int] = []

    def block() -> list[float]:
        calls.append(len(calls))
        return [float(len(calls))]

    return calls, block


def test_a_block_between_two_good_probes_counts() -> None:
    calls, block = counting()
    guard = guard_of([100, 99, 95])
    assert guard(block) == [1.0]
    assert (len(calls), guard.repeated, guard.disturbed) == (1, 0, 0)


def test_the_search_for_the_best_rate_goes_on_while_cores_are_shared() -> None:
    calls, block = counting()
    guard = guard_of([51, 50, 99, 100, 100])  # two slow probes while it is made
    assert guard(block) == [1.0]
    assert len(calls) == 1


def test_a_block_waits_for_whole_cores() -> None:
    calls, block = counting()
    guard = guard_of([100, 50, 51, 99, 100])
    assert guard(block) == [1.0]
    assert (len(calls), guard.repeated, guard.disturbed) == (1, 0, 0)


def test_a_block_that_ends_on_a_shared_core_is_measured_again() -> None:
    calls, block = counting()
    guard = guard_of([100, 100, 50, 100, 100])
    assert guard(block) == [2.0]
    assert (len(calls), guard.repeated, guard.disturbed) == (2, 1, 0)


def test_patience_ends_and_the_block_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_cores, "_PATIENCE_S", 0.01)
    calls, block = counting()
    rates = iter([100.0])
    guard = WholeCores(lambda: next(rates, 50.0), 100.0)
    assert guard(block) == [1.0]
    assert (len(calls), guard.repeated, guard.disturbed) == (1, 0, 1)


def test_without_credit_a_shared_core_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_cores, "_CREDIT_S", 0.0)
    guard = guard_of([100, 50, 51, 50])  # one probe while it is made, then one a block
    for _ in range(3):
        guard(counting()[1])
    assert guard.disturbed == 3


def test_without_credit_whole_cores_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_cores, "_CREDIT_S", 0.0)
    guard = guard_of([100, 50, 100, 100])
    guard(counting()[1])
    assert guard.disturbed == 1
    assert guard(counting()[1]) == [1.0]
    assert (guard.repeated, guard.disturbed) == (0, 1)


def test_measure_keeps_what_the_guard_gives() -> None:
    seen = []

    def guard(block: Callable[[], list[float]]) -> list[float]:
        block()
        seen.append(block())
        return seen[-1]

    times = measure(
        {"empty": lambda: None}, rounds=2, calls=4, pause_s=0.0, min_block_s=0.0, guard=guard
    )
    assert times["empty"].seconds == tuple(seen[0][2:] + seen[1][2:])


def test_the_machine_has_one_guard_for_each_thread_count() -> None:
    guard = watch_cores(1)
    assert guard is not None
    assert watch_cores(1) is guard
    assert guard(lambda: [1.0]) == [1.0]
