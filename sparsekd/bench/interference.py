"""How much of the processor others used while something was measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["Interference"]

_STAT = Path("/proc/stat")


class Interference:
    """A watch over what other processes, and the host of a virtual machine, take of the cores.

    From its making on. Where the system does not tell (it is no Linux), :meth:`cores` is None.

    >>> watch = Interference()
    >>> watch.cores()
    0.0
    """

    def __init__(self) -> None:
        self._busy, self._own, self._start = _busy_s(), _own_s(), time.perf_counter()

    def cores(self) -> float | None:
        """How many cores others used, on average since the watch was made."""
        busy, wall = _busy_s(), time.perf_counter() - self._start
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_own_s() - self._own)
        return max(0.0, others / max(wall, 1e-9))


def _own_s() -> float:
    """Processor seconds of this process, all threads."""
    times = os.times()
    return times.user + times.system


def _busy_s() -> float | None:
    """Processor seconds of everyone, those that a host took away (steal) included."""
    try:
        words = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
