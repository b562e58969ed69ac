"""Measuring with a clock that modules move themselves: no real time passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn

from sparsekd.choice import Call, Contest, Option, measure
from sparsekd.choice._measure import Switch

A, B, C = Option("dense"), Option("windowed"), Option("csr")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Takes(nn.Module):
    """Moves the clock by ``seconds``, a number, a cycle of numbers or a function of the input."""

    def __init__(self, clock: Clock, seconds: float | Iterable[float] | Callable) -> None:
        super().__init__()
        self.clock, self.runs = clock, 0
        if callable(seconds):
            self.seconds = seconds
        else:
            numbers = cycle([seconds] if isinstance(seconds, float) else list(seconds))
            self.seconds = lambda x: next(numbers)

    def forward(self, input: Tensor) -> Tensor:
        self.runs += 1
        self.clock.now += self.seconds(input)
        return input


@pytest.fixture
def clock() -> Clock:
    return Clock()


def contest(clock: Clock, name: str = "a", default: Option | None = A, **rest) -> Contest:
    """``seconds`` for dense, windowed and csr in this order."""
    seconds = rest.pop("seconds")
    options = {o: (Takes(clock, s),) for o, s in zip((A, B, C), seconds, strict=False)}
    return Contest(name, default, options, clock=clock, **rest)


def chain(*contests: Contest) -> Callable[[], object]:
    model = nn.Sequential(*(switch for c in contests for switch in c.switches))
    return lambda: model(torch.zeros(3, 5))


def test_the_fastest_option_is_chosen_and_all_figures_are_kept(clock):
    one = contest(clock, seconds=(0.3, 0.1, 0.2))
    found = measure([one], chain(one), seconds=1e9)["a"]
    assert found.chosen == B
    assert found.calls == (Call((3, 5), False, 1),)
    rounds = len(found.seconds[A])
    for option, seconds in ((A, 0.3), (B, 0.1), (C, 0.2)):
        assert found.seconds[option] == pytest.approx([seconds] * rounds)


def test_the_default_stays_within_the_margin(clock):
    one = contest(clock, seconds=(0.105, 0.1))
    assert measure([one], chain(one), seconds=1e9)["a"].chosen == A
    assert one.switches[0].current is one.options[A][0]


def test_a_layer_that_is_decided_no_longer_tries_its_losers(clock):
    decided, noisy = (
        contest(clock, "a", seconds=(0.3, 0.1)),
        contest(clock, "b", seconds=([1.0, 1.0, 3.0], [2.0, 1.0]), key="b"),
    )
    measure([decided, noisy], chain(decided, noisy), seconds=1e9)
    assert decided.options[A][0].runs < noisy.options[A][0].runs
    assert decided.options[B][0].runs > decided.options[A][0].runs


def test_measuring_ends_with_the_time_but_not_before_one_round(clock):
    one = contest(clock, seconds=([1.0, 9.0], [9.0, 1.0], 5.0))
    found = measure([one], chain(one), seconds=0.001)["a"]
    assert [len(times) for times in found.seconds.values()] == [1, 1, 1]
    assert found.chosen is not None
    longer = contest(clock, seconds=([1.0, 9.0], [9.0, 1.0], 5.0))
    found = measure([longer], chain(longer), seconds=100.0)["a"]
    assert 1 < len(found.seconds[A]) < 20


def test_a_layer_that_is_never_called_has_no_choice(clock):
    used, unused = contest(clock, "a", seconds=(0.3, 0.1)), contest(clock, "b", seconds=(0.3, 0.1))
    found = measure([used, unused], chain(used), seconds=1e9)
    assert found["a"].chosen == B
    assert (found["b"].chosen, found["b"].calls, dict(found["b"].seconds)) == (None, (), {})
    assert measure([unused], lambda: None, seconds=1e9)["b"].chosen is None
    assert measure([], lambda: None, seconds=1e9) == {}


def test_layers_alike_are_decided_together(clock):
    noise = ([0.2, 0.9], [0.25, 0.01])
    layers = [contest(clock, f"l{i}", seconds=noise, key="same") for i in range(4)]
    other = contest(clock, "other", seconds=(0.1, 0.5), key="another")
    found = measure([*layers, other], chain(*layers, other), seconds=1e9)
    assert {found[f"l{i}"].chosen for i in range(4)} == {B}
    assert found["l0"].alike == 4
    assert found["l0"].seconds == found["l3"].seconds
    assert (found["other"].chosen, found["other"].alike) == (A, 1)


def test_layers_alike_with_other_inputs_are_decided_apart(clock):
    def by_rows(x: Tensor) -> float:
        return 0.01 * len(x)

    small, large = (contest(clock, n, seconds=(by_rows, 0.05), key="same") for n in "ab")

    def run() -> None:
        small.switches[0](torch.zeros(1, 5))
        large.switches[0](torch.zeros(64, 5))

    found = measure([small, large], run, seconds=1e9)
    assert (found["a"].chosen, found["b"].chosen) == (A, B)


def test_a_layer_with_several_inputs_is_decided_by_all_its_calls(clock):
    def good_at_one_row(x: Tensor) -> float:
        return 0.01 if len(x) == 1 else 1.0

    def run(times: int) -> Callable[[], None]:
        def both() -> None:
            one.switches[0](torch.zeros(64, 5))
            for _ in range(times):
                one.switches[0](torch.zeros(1, 5))

        return both

    one = contest(clock, seconds=(0.1, good_at_one_row))
    found = measure([one], run(2), seconds=1e9)["a"]
    assert found.chosen == A
    assert found.calls == (Call((64, 5), False, 1), Call((1, 5), False, 2))
    one = contest(clock, seconds=(0.1, good_at_one_row))
    assert measure([one], run(50), seconds=1e9)["a"].chosen == B


def test_tied_layers_get_one_option_that_both_have(clock):
    first = contest(clock, "a", seconds=(0.3, 0.1, 0.01), tie=7)
    second = contest(clock, "b", seconds=(0.3, 0.9), tie=7)
    found = measure([first, second], chain(first, second), seconds=1e9)
    assert found["a"].chosen == found["b"].chosen == A
    assert set(found["a"].seconds) == {A, B}


def test_what_runs_inside_a_layer_counts_with_it(clock):
    def places(*seconds: float) -> tuple[nn.Module, ...]:
        return tuple(Takes(clock, s) for s in seconds)

    one = Contest("a", A, {A: places(0.1, 0.3, 0.2), B: places(0.4, 0.0, 0.0)}, clock=clock)
    assert len(one.switches) == 3
    found = measure([one], chain(one), seconds=1e9)["a"]
    assert found.chosen == B
    assert found.seconds[A][0] == pytest.approx(0.6)


def test_stand_ins_are_timed_but_never_chosen(clock):
    probe = Option("windowed", None, 0.875)
    options = {A: (Takes(clock, 0.3),), probe: (Takes(clock, 0.01),)}
    one = Contest("a", A, options, clock=clock)
    found = measure([one], chain(one), seconds=1e9)["a"]
    assert found.chosen == A
    assert len(found.seconds[probe]) >= 5


def test_the_first_run_after_a_change_does_not_count_where_runs_are_short(clock):
    class Cold(nn.Module):
        """Slow when another option has run since."""

        last: nn.Module | None = None

        def forward(self, x: Tensor) -> Tensor:
            clock.now += 0.001 if Cold.last is self else 0.1
            Cold.last = self
            return x

    one = Contest("a", A, {A: (Cold(),), B: (Cold(),)}, clock=clock)
    found = measure([one], chain(one), seconds=1e9)["a"]
    assert found.seconds[A] == pytest.approx([0.001] * len(found.seconds[A]))


def test_images_are_told_apart_by_their_memory_format(clock):
    one = contest(clock, seconds=(0.3, 0.1))
    image = torch.zeros(2, 8, 4, 4)

    def run() -> None:
        one.switches[0](image)
        one.switches[0](input=image.contiguous(memory_format=torch.channels_last))

    calls = measure([one], run, seconds=1e9)["a"].calls
    assert calls == (Call((2, 8, 4, 4), False, 1), Call((2, 8, 4, 4), True, 1))
    assert [str(call) for call in calls] == ["2×8×4×4", "2×8×4×4 nhwc"]


def test_a_switch_has_the_attributes_of_what_stands_in_it():
    switch = Switch({A: nn.Linear(3, 4), B: nn.Linear(3, 5)}, lambda: 0.0)
    assert switch.out_features == 4
    switch.put(B)
    assert switch.out_features == 5
    assert switch.weight.shape == (5, 3)
    assert switch(torch.zeros(2, 3)).shape == (2, 5)
    with pytest.raises(AttributeError, match="nothing_such"):
        switch.nothing_such  # noqa: B018
