"""Timing only while the machine gives every thread a core of its own.

A virtual machine's processors are threads of the host, which may run two of them on one core, or
share a core with somebody else, for tenths of seconds to seconds: then everything takes up to twice
as long, and no counter of the guest tells. A loop over registers does: it is run before and after
each block of timings, and a block during which it came out slow is measured again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

from sparsekd import backend

__all__ = ["WholeCores", "watch_cores"]

T = TypeVar("T")

_WHOLE = 0.8  # of the best rate seen; clocks move by less, a shared core costs up to half
_SURVEY_S = 3.0  # at most, to see the best rate once
_PATIENCE_S = 3.0  # per block; then it is measured as the machine is,
_CREDIT_S = 10.0  # and for all blocks, beside twice the time that was measured well
_REST_S = 0.02
_PROBE_S = 2.5e-4
_PROBES = 3  # the first may have to wake the threads up


class WholeCores:
    """A guard for blocks of timings, as ``guard`` of :func:`sparsekd.benchmark.measure`.

    Args:
        probe: measures the rate of arithmetic of all threads together, in any unit.
        whole: a rate that the machine may be expected to have; the search for the best rate ends
            when it comes near, or after three seconds.

    Attributes:
        repeated: blocks that were measured again.
        disturbed: blocks that count although the machine never gave whole cores.
    """

    def __init__(self, probe: Callable[[], float], whole: float = math.inf) -> None:
        self.repeated = 0
        self.disturbed = 0
        self._probe = probe
        self._best = 0.0
        self._credit_s = _CREDIT_S
        start = time.perf_counter()
        while self._best < _WHOLE * whole and time.perf_counter() - start < _SURVEY_S:
            self._best = max(self._best, probe())
            time.sleep(_REST_S)

    def __call__(self, block: Callable[[], T]) -> T:
        """What ``block`` returns, from a time in which the cores were whole before and after."""
        start = time.perf_counter()
        patience_s = min(_PATIENCE_S, self._credit_s)
        while True:
            whole = self._are_whole()
            waited_s = time.perf_counter() - start
            if whole:
                result = block()
                took_s = time.perf_counter() - start - waited_s
                if self._are_whole():
                    self._credit_s = max(0.0, self._credit_s + 2 * took_s - waited_s)
                    return result
                self.repeated += 1
            elif waited_s < patience_s:
                time.sleep(_REST_S)
            if time.perf_counter() - start >= patience_s:
                break
        self._credit_s = max(0.0, self._credit_s - (time.perf_counter() - start))
        self.disturbed += 1
        return block()

    def _are_whole(self) -> bool:
        rate = self._probe()
        self._best = max(self._best, rate)
        return rate >= _WHOLE * self._best


@cache
def watch_cores(threads: int) -> WholeCores | None:
    """The guard for that many threads, one for the process; None where no rate can be measured."""
    try:
        native = backend.require()
    except backend.NativeMissingError:
        return None
    names = native.rate_names()
    if not names:
        return None
    name = names[0]
    turns = _turns(lambda count: native.run_rate(name, count, 1))

    def rate(count: int) -> float:
        fastest = min(_seconds(lambda: native.run_rate(name, turns, count)) for _ in range(_PROBES))
        return count / fastest

    return WholeCores(lambda: rate(threads), threads * rate(1))


def _turns(run: Callable[[int], object]) -> int:
    """How many turns of the loop make a probe."""
    turns = 1
    while (took := min(_seconds(partial(run, turns)) for _ in range(_PROBES))) < _PROBE_S / 4:
        turns *= 4
    return max(1, round(turns * _PROBE_S / took))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
