"""One point of a comparison: build every engine, check it, time them all by one protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from sparsekd.bench.interference import Interference
from sparsekd.bench.peers import Engine, PeerMissingError
from sparsekd.bench.record import QUIET_CORES, Entry, Kind, Point
from sparsekd.benchmark import Samples, measure
from sparsekd.whole_cores import watch_cores

__all__ = ["Contender", "Timing", "run_point"]

P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)


class Build(Protocol[P_contra]):
    """Does all packing and compiling; raises PeerMissingError where its package is absent."""

    def __call__(self, problem: P_contra, /) -> Engine: ...


@dataclass(frozen=True)
class Contender(Generic[P]):
    """What an engine is called, and how it is built for a problem of type P.

    Attributes:
        kind: what it competes as.
        ours: it is judged against the others, and no yardstick itself.
        family, sparsity: as in :class:`Entry`.
    """

    name: str
    kind: Kind
    build: Build[P]
    ours: bool = False
    family: str = ""
    sparsity: float | None = None


@dataclass(frozen=True)
class Timing:
    """How long is measured, as arguments of :func:`sparsekd.benchmark.measure`.

    Attributes:
        retries: how often a point is measured again while others use the cores.
    """

    rounds: int = 9
    calls: int = 10
    pause_s: float = 0.05
    min_block_s: float = 0.005
    max_block_s: float = 0.3
    retries: int = 1

    def seconds(self, call_s: float) -> float:
        """About how long one engine takes whose call lasts ``call_s``."""
        block = min(max(self.calls * call_s, self.min_block_s), max(self.max_block_s, 4 * call_s))
        return self.rounds * (self.pause_s + block) + 4 * call_s


def run_point(
    problem: P,
    contenders: Iterable[Contender[P]],
    timing: Timing,
    *,
    title: str,
    case: Mapping[str, Any],
    error_of: Callable[[Engine, P, Contender[P]], float],
    bounds: Mapping[Kind, float],
) -> Point:
    """Build, check and time every contender on one problem.

    Args:
        error_of: relative error of an engine's output against float64.
        bounds: above these an engine does not compute what it says, and is not timed.

    Returns:
        The engines that ran; those that did not are named in ``absent`` with the reason.
    """
    absent: dict[str, str] = {}
    ready: list[tuple[Contender[P], Engine, float | None, float]] = []
    for contender in contenders:
        start = time.perf_counter()
        try:
            engine = contender.build(problem)
            setup_s = time.perf_counter() - start
            error = None if contender.kind == "rate" else error_of(engine, problem, contender)
        except PeerMissingError as missing:
            absent[contender.name] = str(missing)
            continue
        except Exception as failure:  # whatever another engine raises is its result, not ours
            if contender.ours:
                raise
            reason = f"failed: {type(failure).__name__}: {failure}"
            absent[contender.name] = reason.splitlines()[0][:200]
            continue
        if error is None or error <= bounds[contender.kind]:
            ready.append((contender, engine, error, setup_s))
        else:
            absent[contender.name] = f"not timed: its output is wrong (relative error {error:.1e})"
    guard = watch_cores(torch.get_num_threads())
    before = (guard.repeated, guard.disturbed) if guard else (0, 0)
    times, others = _measure({c.name: engine.run for c, engine, _, _ in ready}, timing)
    after = (guard.repeated, guard.disturbed) if guard else (0, 0)
    entries = tuple(
        Entry(
            c.name,
            c.kind,
            c.ours,
            engine.version,
            engine.config,
            error,
            setup_s,
            times[c.name],
            c.family,
            c.sparsity,
            engine.work,
            engine.moved,
        )
        for c, engine, error, setup_s in ready
    )
    repeated, disturbed = (now - then for now, then in zip(after, before, strict=True))
    return Point(title, dict(case), entries, absent, others, repeated, disturbed)


def _measure(
    runs: Mapping[str, Callable[[], object]], timing: Timing
) -> tuple[dict[str, Samples], float | None]:
    """The times, and the cores that others used meanwhile; of several attempts the quietest."""
    attempts: list[tuple[float, dict[str, Samples]]] = []
    while True:
        watch = Interference()
        with torch.inference_mode():  # only here: modules built under it lose their versions
            times = measure(
                runs,
                rounds=timing.rounds,
                calls=timing.calls,
                pause_s=timing.pause_s,
                min_block_s=timing.min_block_s,
                max_block_s=timing.max_block_s,
                guard=watch_cores(torch.get_num_threads()),
            )
        others = watch.cores()
        if others is None:
            return times, None
        attempts.append((others, times))
        if others <= QUIET_CORES or len(attempts) > timing.retries:
            others, times = min(attempts, key=lambda attempt: attempt[0])
            return times, others
