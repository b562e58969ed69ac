"""Times each layer's options inside the running model.

Alone in a loop a layer finds its weights in the nearest cache; in a model all other layers' weights
and activations have gone through the caches since its last call. So options are timed where they
will run: in the place of the layer stands a :class:`Switch`, the whole model runs, and each switch
times its own calls. Inputs, memory formats, caches and threads are then what they will be. All
layers change their option together, the first run after a change is dropped where runs are short,
and the order of the options moves on from round to round.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, median
from typing import Any

from torch import Tensor, nn

from sparsekd.benchmark import without_gc
from sparsekd.choice._decide import MIN_ROUNDS, decide
from sparsekd.choice._options import Option
from sparsekd.choice._report import Call
from sparsekd.images import is_channels_last

__all__ = ["Contest", "Switch", "Trial", "measure"]

_MAX_ROUNDS = 20
_BLOCK_S = 0.02  # a block is so many seconds of runs, but
_BLOCK_RUNS = 5  # not more than this many
_LONG_S = 0.2  # a run of this length does not notice that the weights were changed before it


#: Calls a block of runs, again if it has to; gives what it returned.
Guard = Callable[[Callable[[], list[list[float]]]], list[list[float]]]


class Switch(nn.Module):
    """Stands in the place of a module while its options take turns, and times their calls.

    Attributes are those of the option whose turn it is, so that forward code which looks at sizes
    works.
    """

    def __init__(self, options: Mapping[Option, nn.Module], clock: Callable[[], float]) -> None:
        super().__init__()
        self._options = dict(options)  # a dict, so that they are no submodules
        self._watch = [0.0]
        self._clock = clock
        self.calls: Counter[tuple[tuple[int, ...], bool]] | None = None
        self.put(next(iter(options)))

    def put(self, option: Option) -> None:
        """Let it be this option's turn."""
        self.current = self._options[option]

    def take_seconds(self) -> float:
        """The seconds of all calls since this was last asked."""
        seconds, self._watch[0] = self._watch[0], 0.0
        return seconds

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("current"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self._modules["current"]
        if self.calls is not None:
            x = args[0] if args else next(iter(kwargs.values()), None)
            if isinstance(x, Tensor):
                self.calls[tuple(x.shape), _is_channels_last(x)] += 1
        start = self._clock()
        result = module(*args, **kwargs)
        self._watch[0] += self._clock() - start
        return result


@dataclass
class Contest:
    """A layer and its options.

    Attributes:
        name: of the layer in the model.
        default: kept unless another option is clearly faster; None where there is none such.
        options: for each option the modules that stand at the layer's places: the layer itself,
            then what may run inside it (a BatchNorm, an activation), in one order.
        key: layers of equal keys that get equal inputs are measured and decided together.
        tie: layers of one tie share a weight and must get one option, whatever their inputs.
        switches: what is to be put at those places in the model that runs.
    """

    name: str
    default: Option | None
    options: Mapping[Option, Sequence[nn.Module]]
    key: Hashable = None
    tie: Hashable = None
    clock: Callable[[], float] = time.perf_counter
    switches: tuple[Switch, ...] = field(init=False)

    def __post_init__(self) -> None:
        places = zip(*self.options.values(), strict=True)
        self.switches = tuple(
            Switch(dict(zip(self.options, modules, strict=True)), self.clock) for modules in places
        )
        if self.default is not None:
            self.put(self.default)

    def put(self, option: Option) -> None:
        """Let it be this option's turn at all places."""
        for switch in self.switches:
            switch.put(option)


@dataclass(frozen=True)
class Trial:
    """What a measurement found for one layer.

    Attributes:
        calls: the inputs of the layer in one run; empty where it is never called.
        alike: how many layers were measured as one.
        seconds: for each option, by round, the time of all calls of the layer in one run, the mean
            over the layers alike; empty where it is never called.
        chosen: the option to keep; None where it is never called.
    """

    calls: tuple[Call, ...]
    alike: int
    seconds: Mapping[Option, tuple[float, ...]]
    chosen: Option | None


def measure(
    contests: Sequence[Contest],
    run: Callable[[], object],
    *,
    seconds: float,
    progress: bool = False,
    guard: Guard | None = None,
) -> dict[str, Trial]:
    """Let the options of all layers take turns until each layer is decided.

    Args:
        contests: their switches stand in the model that ``run`` runs; one clock for all.
        run: runs all example inputs through that model, once.
        seconds: no further round begins after that time. One round is finished in any case.
        progress: show a bar on a terminal.
        guard: as in :func:`sparsekd.benchmark.measure`.

    Returns:
        a trial for every contest, by name.
    """
    if not contests:
        return {}
    clock = contests[0].clock
    start = clock()
    calls = _recorded_calls(contests, run)
    groups = _groups(contests, calls)
    with without_gc(), _bar(len(groups), progress) as bar:
        before = clock()
        run()
        block = _Block.for_runs_of(clock() - before, guard)
        for turn in range(_MAX_ROUNDS if groups else 0):
            if turn and clock() - start > seconds:
                break
            still_open = [group for group in groups if not group.settled]
            block.round(run, still_open, turn)
            bar.update(sum(group.settle() for group in still_open))
            if all(group.settled for group in still_open):
                break
    found = {contest.name: Trial((), 1, {}, None) for contest in contests}
    for group in groups:
        times = {option: tuple(seen) for option, seen in group.rounds.items()}
        for contest in group.members:
            trial = Trial(calls[contest.name], len(group.members), times, group.chosen)
            found[contest.name] = trial
    return found


@dataclass
class _Group:
    """Layers that are measured and decided together."""

    members: list[Contest]
    rounds: dict[Option, list[float]] = field(init=False)
    default: Option | None = field(init=False)
    chosen: Option | None = None
    settled: bool = False

    def __post_init__(self) -> None:
        first, *rest = self.members
        shared = [o for o in first.options if all(o in contest.options for contest in rest)]
        self.rounds = {option: [] for option in shared}
        self.default = first.default if first.default in shared else None

    def put(self, option: Option) -> None:
        for contest in self.members:
            contest.put(option)

    def take_seconds(self) -> float:
        """Of all calls since this was last asked, a layer."""
        return fmean(
            sum(switch.take_seconds() for switch in contest.switches) for contest in self.members
        )

    def settle(self) -> bool:
        """Decide by what is known; True, once and for all, when more rounds would not help."""
        real = {option: times for option, times in self.rounds.items() if option.probe is None}
        self.chosen, self.settled = decide(real, self.default)
        enough = len(real) == len(self.rounds) or len(next(iter(real.values()))) >= MIN_ROUNDS
        self.settled = self.settled and enough
        if self.settled:
            self.put(self.chosen)  # the others go on among what the model will hold
        return self.settled


@dataclass(frozen=True)
class _Block:
    """The runs that one option gets in a row: ``skip`` that do not count, then ``runs``."""

    skip: int
    runs: int
    guard: Guard | None

    @classmethod
    def for_runs_of(cls, seconds: float, guard: Guard | None) -> _Block:
        """For a model whose run takes this long."""
        runs = min(_BLOCK_RUNS, max(1, math.ceil(_BLOCK_S / max(seconds, 1e-9))))
        return cls(1 if seconds < _LONG_S else 0, runs, guard)

    def round(self, run: Callable[[], object], groups: Sequence[_Group], turn: int) -> None:
        """One block, or more, for every option of every group."""
        taken: list[dict[Option, list[float]]] = [{} for _ in groups]
        for step in range(max(len(group.rounds) for group in groups)):
            turns = [list(group.rounds)[(turn + step) % len(group.rounds)] for group in groups]
            for group, option in zip(groups, turns, strict=True):
                group.put(option)
            block = partial(self._seconds, run, groups)
            spent = self.guard(block) if self.guard else block()
            for option, times, seconds in zip(turns, taken, spent, strict=True):
                times.setdefault(option, []).extend(seconds)
        for group, times in zip(groups, taken, strict=True):
            for option, seen in times.items():
                group.rounds[option].append(median(seen))

    def _seconds(self, run: Callable[[], object], groups: Sequence[_Group]) -> list[list[float]]:
        """Of each group, a run that counts."""
        for _ in range(self.skip):
            run()
        for group in groups:
            group.take_seconds()
        runs = []
        for _ in range(self.runs):
            run()
            runs.append([group.take_seconds() for group in groups])
        return [list(times) for times in zip(*runs, strict=True)]


def _recorded_calls(
    contests: Sequence[Contest], run: Callable[[], object]
) -> dict[str, tuple[Call, ...]]:
    """The inputs of each layer in one run, which also warms everything up."""
    for contest in contests:
        contest.switches[0].calls = Counter()
    run()
    found = {}
    for contest in contests:
        first = contest.switches[0]
        seen = first.calls or Counter()
        found[contest.name] = tuple(Call(*what, count) for what, count in seen.items())
        first.calls = None
        for switch in contest.switches:
            switch.take_seconds()
    return found


def _groups(contests: Sequence[Contest], calls: Mapping[str, tuple[Call, ...]]) -> list[_Group]:
    """Layers that are called, by what they have in common."""
    members: dict[Hashable, list[Contest]] = {}
    for contest in contests:
        alone = contest.tie is None
        key = (contest.key, calls[contest.name]) if alone else ("tie", contest.tie)
        members.setdefault(key, []).append(contest)
    return [_Group(m) for m in members.values() if any(calls[contest.name] for contest in m)]


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and is_channels_last(x)


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm  # imported here: whoever does not measure does not need it

    return tqdm(total=total, desc="tune", unit="layer", leave=False, disable=not progress or None)
