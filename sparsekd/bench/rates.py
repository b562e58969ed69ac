"""Limits of the machine as contenders: measured beside the engines, since clocks move."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from sparsekd import backend
from sparsekd.bench.peers import Engine, version_of
from sparsekd.bench.runner import Contender

__all__ = ["memory_contenders", "rate_contenders", "rate_names"]

# Buffers whose reading is timed: in L1, L2 and L3 of usual CPUs, and beyond.
_SIZES = {
    "read 32 KB": 1 << 15,
    "read 512 KB": 1 << 19,
    "read 8 MB": 8 << 20,
    "read 256 MB": 256 << 20,
}
_CALL_S = 5e-4  # what one timed call lasts


def rate_names() -> list[str]:
    """The instruction rates that can be measured on this CPU, such as "vpdpbusd"."""
    return list(backend.require().rate_names())


def rate_contenders(names: list[str], threads: int) -> list[Contender[Any]]:
    """Loops of one kind of instruction, those of ``names`` that this CPU has."""
    return [
        Contender(name, "rate", partial(_instructions, name, threads))
        for name in names
        if name in rate_names()
    ]


def memory_contenders(threads: int) -> list[Contender[Any]]:
    """Reading buffers of several sizes, shared among the threads, and copying a large one."""
    reads = [
        Contender(name, "rate", partial(_reading, size, threads)) for name, size in _SIZES.items()
    ]
    return [*reads, Contender("copy 256 MB", "rate", partial(_copying, threads))]


def _instructions(name: str, threads: int, problem: object) -> Engine:
    native = backend.require()
    turns = _turns(lambda n: native.run_rate(name, n, threads))
    work = native.run_rate(name, turns, threads)
    config = {"threads": threads, "unit": "multiply-adds"}
    return Engine(
        version_of("sparsekd"),
        lambda: native.run_rate(name, turns, threads),
        _no_output,
        config,
        work=work,
    )


def _reading(size: int, threads: int, problem: object) -> Engine:
    native = backend.require()
    data = torch.ones(size + 64, dtype=torch.uint8)
    start = data.data_ptr() + -data.data_ptr() % 64
    turns = _turns(lambda n: native.read_memory(start, size, n, threads))
    moved = native.read_memory(start, size, turns, threads)

    def run(_keeps_alive: torch.Tensor = data) -> object:
        return native.read_memory(start, size, turns, threads)

    config = {"threads": threads, "unit": "bytes"}
    return Engine(version_of("sparsekd"), run, _no_output, config, moved=moved)


def _copying(threads: int, problem: object) -> Engine:
    """torch's copy from one buffer to another; bytes are those read and those written."""
    size = _SIZES["read 256 MB"] // 2
    source, target = torch.ones(2, size, dtype=torch.uint8)
    return Engine(
        version_of("torch"),
        lambda: target.copy_(source),
        _no_output,
        {"threads": threads, "unit": "bytes"},
        moved=2 * size,
    )


def _turns(run: Callable[[int], object]) -> int:
    """How many turns last about as long as a call should."""
    turns = 1
    while True:
        took = min(_seconds(run, turns) for _ in range(5))  # of some: others may run meanwhile
        if took >= _CALL_S / 4 or turns >= 1 << 30:
            return max(1, round(turns * _CALL_S / max(took, 1e-9)))
        turns *= 4


def _seconds(run: Callable[[int], object], turns: int) -> float:
    start = time.perf_counter()
    run(turns)
    return time.perf_counter() - start


def _no_output(index: int) -> torch.Tensor:
    raise RuntimeError("a rate has no output to be checked")
