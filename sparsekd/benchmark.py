"""Measuring: a protocol that treats every engine alike, and a table that hides nothing.

Other runtimes' worker threads spin for a while after a call and slow down whoever comes next,
clocks ramp up, and a shared machine drifts. So engines take turns in blocks of calls, with a pause
before each block; the first half of a block is dropped; the order rotates from round to round; a
block during which the machine gave less than whole cores is measured again; and the result is a
median with its spread, never a minimum.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsekd.environment import busy_note, environment
from sparsekd.whole_cores import watch_cores

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "BenchmarkRow",
    "BenchmarkTable",
    "OwnClock",
    "Samples",
    "benchmark",
    "environment",
    "measure",
]

MARK = "!"  # behind every ratio that is a loss
_FEWEST_CALLS = 4  # of a block, however long a call takes
_COPIES = 4  # of an input that came alone: a buffer that is never changed flatters the caches

Input = Tensor | tuple[Any, ...]
Block = Callable[[], list[float]]


@dataclass(frozen=True)
class Samples:
    """Times of one engine, in seconds a call, each the mean of a few calls in a row.

    >>> Samples((0.002, 0.001, 0.003)).median
    0.002
    """

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError("Samples needs at least one time, got none")

    def quantile(self, share: float) -> float:
        """The time that ``share`` (0..1) of the samples do not exceed, linearly interpolated."""
        ordered = sorted(self.seconds)
        at = share * (len(ordered) - 1)
        low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
        return low + (high - low) * (at - math.floor(at))

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    @property
    def p10(self) -> float:
        return self.quantile(0.1)

    @property
    def p90(self) -> float:
        return self.quantile(0.9)

    def to_dict(self) -> dict[str, Any]:
        """Median, spread and the raw samples, in seconds."""
        return {
            "median_s": self.median,
            "p10_s": self.p10,
            "p90_s": self.p90,
            "samples_s": list(self.seconds),
        }


@dataclass(frozen=True)
class OwnClock:
    """A callable for :func:`measure` that tells itself how long its work took.

    Attributes:
        run: one call; gives the seconds that count, at most those that it took.
    """

    run: Callable[[], float]

    def __call__(self) -> float:
        return self.run()


def measure(
    engines: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 9,
    calls: int = 10,
    pause_s: float = 0.05,
    min_block_s: float = 0.005,
    max_block_s: float = math.inf,
    guard: Callable[[Block], list[float]] | None = None,
) -> dict[str, Samples]:
    """Time several callables side by side.

    In each round every engine gets one block of ``calls`` timings after a pause; the first half is
    dropped. When a call is so short that the block would end before ``min_block_s``, each timing
    covers several calls and counts their mean. The engine that begins moves on by one each round.

    Args:
        engines: name to a callable without arguments that does one call's work; an
            :class:`OwnClock` is believed about its time.
        rounds: blocks per engine; 9 or more for a figure worth quoting.
        calls: timings in a block, at least 2.
        pause_s: seconds of rest before each block.
        min_block_s: the least a block lasts, in seconds.
        max_block_s: calls so long that a block would last longer are made fewer times, at least 4.
        guard: calls the block that it is given, pause included, and gives what that returned, the
            last time if it calls it again (:class:`sparsekd.whole_cores.WholeCores`).

    Returns:
        For each name the kept samples: ``rounds * ceil(calls / 2)`` of them.

    Raises:
        ValueError: no engine, or a setting out of range.

    >>> times = measure({"torch": lambda: layer(x), "engine": lambda: fast(x)})
    >>> times["torch"].median / times["engine"].median
    """
    if not engines:
        raise ValueError("measure needs at least one engine, got none")
    if rounds < 1 or calls < 2 or pause_s < 0 or not 0 <= min_block_s <= max_block_s:
        raise ValueError(
            "measure needs rounds >= 1, calls >= 2, pause_s >= 0 and 0 <= min_block_s <= "
            f"max_block_s, got rounds={rounds}, calls={calls}, pause_s={pause_s}, "
            f"min_block_s={min_block_s}, max_block_s={max_block_s}"
        )
    plans = {name: _plan(run, calls, min_block_s, max_block_s) for name, run in engines.items()}
    names = list(engines)
    kept: dict[str, list[float]] = {name: [] for name in names}
    with without_gc():
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                block = partial(_block, engines[name], *plans[name], pause_s)
                times = guard(block) if guard else block()
                kept[name] += times[len(times) // 2 :]
                gc.collect(0)
    return {name: Samples(tuple(times)) for name, times in kept.items()}


def _plan(
    run: Callable[[], object], calls: int, min_block_s: float, max_block_s: float
) -> tuple[int, int]:
    """(timings of a block, calls that each covers); the calls made here warm up."""
    run()  # the first call may pack, compile or allocate
    fastest = math.inf
    for _ in range(3):
        start = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - start)
    fastest = max(fastest, 1e-9)
    if calls * fastest > max_block_s:
        return min(calls, max(_FEWEST_CALLS, int(max_block_s / fastest))), 1
    return calls, max(1, math.ceil(min_block_s / calls / fastest))


def _block(run: Callable[[], object], calls: int, repeats: int, pause_s: float) -> list[float]:
    time.sleep(pause_s)
    if isinstance(run, OwnClock):
        return [sum(run() for _ in range(repeats)) / repeats for _ in range(calls)]
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        times.append((time.perf_counter() - start) / repeats)
    return times


@contextmanager
def without_gc() -> Iterator[None]:
    """Keep the collector from running inside a timing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class BenchmarkRow:
    """One model on one case of inputs.

    Attributes:
        ratio: time of the first model over time of this one; above 1 is faster, below slower.
    """

    model: str
    case: str
    samples: Samples
    ratio: float

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "case": self.case, "ratio": self.ratio} | (
            self.samples.to_dict()
        )


@dataclass(frozen=True)
class BenchmarkTable:
    """What :func:`benchmark` measured. ``str()`` is a plain table, rich renders a coloured one.

    Attributes:
        rows: case by case, in each the models in the order they were given.
        settings: the arguments of the measurement.
        environment: as :func:`environment` returns it.
    """

    rows: tuple[BenchmarkRow, ...]
    settings: dict[str, Any]
    environment: dict[str, Any]

    def row(self, model: str, case: str | None = None) -> BenchmarkRow:
        """The row of a model, on the first case unless one is named.

        Raises:
            KeyError: no such row.
        """
        for row in self.rows:
            if row.model == model and case in (None, row.case):
                return row
        raise KeyError(f"no row for model {model!r} and case {case!r}")

    def to_dict(self) -> dict[str, Any]:
        """Everything, raw samples included, as plain JSON types."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "settings": self.settings,
            "environment": self.environment,
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The JSON text of :meth:`to_dict`; written to ``path`` too if one is given."""
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @property
    def reference(self) -> str:
        """The name of the model that the ratios refer to."""
        return self.rows[0].model

    @property
    def _note(self) -> str:
        note = f"ratio: time of {self.reference} over time of the model"
        note += f"; {MARK} slower" if any(row.ratio < 1 for row in self.rows) else ""
        busy = busy_note(self.environment)
        disturbed = self.environment.get("disturbed_blocks")
        lines = [note, f"{disturbed} blocks without whole cores" if disturbed else "", busy]
        return "\n".join(line for line in lines if line)

    @property
    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (row.case, row.model, *format_times(row.samples), format_ratio(row.ratio))
            for row in self.rows
        ]

    def __str__(self) -> str:
        table = [("case", "model", "median ms", "p10..p90 ms", "ratio"), *self._cells]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        form = "  ".join(f"{{:{'<' if i < 2 else '>'}{w}}}" for i, w in enumerate(widths))
        lines = [form.format(*cells).rstrip() for cells in table]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], self._note])

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table("case", "model", caption=self._note)
        for name in ("median ms", "p10..p90 ms", "ratio"):
            table.add_column(name, justify="right", no_wrap=True)
        for row, cells in zip(self.rows, self._cells, strict=True):
            table.add_row(*cells[:-1], f"[red]{cells[-1]}[/red]" if row.ratio < 1 else cells[-1])
        return table


def format_times(samples: Samples) -> tuple[str, str]:
    """Median and spread in milliseconds, as text of three significant digits."""
    low, mid, high = (digits(1e3 * t) for t in (samples.p10, samples.median, samples.p90))
    return mid, f"{low}..{high}"


def format_ratio(ratio: float) -> str:
    """``2.31x``, and ``0.84x !`` for a loss; a loss is never rounded up to 1."""
    shown = min(ratio, 0.99) if ratio < 1 else ratio
    return f"{shown:.2f}x {MARK}" if ratio < 1 else f"{shown:.2f}x"


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    if value <= 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def benchmark(
    models: Mapping[str, nn.Module | Callable[..., object]],
    inputs: Input | list[Any] | Mapping[str, Any],
    *,
    threads: int | None = None,
    rounds: int = 9,
    calls: int = 10,
    pause_s: float = 0.05,
    min_block_s: float = 0.005,
) -> BenchmarkTable:
    """Time models side by side on the same inputs, in inference mode and eval.

    Args:
        models: name to a module or any callable; the ratios refer to the first.
        inputs: a tensor, or a tuple of the arguments of one call, or a list of either: calls
            rotate among them (an input that comes alone is copied, so that several buffers are
            read). A mapping names several such cases, e.g. ``{"batch 1": x1, "batch 32": x32}``.
        threads: torch's thread count while measuring; None leaves it as it is.
        rounds, calls, pause_s, min_block_s: as in :func:`measure`.

    Returns:
        One row for each model and case, and the environment.

    Raises:
        ValueError: no model, no input, or a thread count below 1.

    >>> table = benchmark({"torch": model, "engine": convert(model)}, torch.randn(32, 64))
    >>> print(table)
    """
    if not models:
        raise ValueError("benchmark needs at least one model, got none")
    if threads is not None and threads < 1:
        raise ValueError(f"benchmark needs threads >= 1, got {threads}")
    cases = {name: _rotation(name, given) for name, given in _cases(inputs).items()}
    settings = {"rounds": rounds, "calls": calls, "pause_s": pause_s, "min_block_s": min_block_s}
    rows = []
    with _eval_mode(models.values()), torch_threads(threads), torch.inference_mode():
        guard = watch_cores(torch.get_num_threads())
        before = guard.disturbed if guard else 0
        for case, rotation in cases.items():
            engines = {name: _caller(model, rotation) for name, model in models.items()}
            times = measure(
                engines,
                rounds=rounds,
                calls=calls,
                pause_s=pause_s,
                min_block_s=min_block_s,
                guard=guard,
            )
            first = next(iter(times.values())).median
            rows += [BenchmarkRow(n, case, s, first / s.median) for n, s in times.items()]
        where = environment()
        where["disturbed_blocks"] = guard.disturbed - before if guard else None
    return BenchmarkTable(tuple(rows), settings, where)


def _cases(inputs: Input | list[Any] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(inputs, Mapping):
        if not inputs:
            raise ValueError("benchmark needs at least one case of inputs, got an empty mapping")
        return inputs
    first = inputs[0] if isinstance(inputs, list) and inputs else inputs
    first = first[0] if isinstance(first, tuple) and first else first
    return {"x".join(map(str, first.shape)) if isinstance(first, Tensor) else "input": inputs}


def _rotation(case: str, given: Input | list[Any]) -> list[tuple[Any, ...]]:
    """The argument tuples that the calls of one case rotate among."""
    listed: Sequence[Any] = given if isinstance(given, list) else [given]
    if not listed:
        raise ValueError(f"benchmark needs at least one input, got an empty list for {case!r}")
    rotation = [entry if isinstance(entry, tuple) else (entry,) for entry in listed]
    if len(rotation) > 1:
        return rotation
    alone = rotation[0]
    copies = [
        tuple(a.clone() if isinstance(a, Tensor) else a for a in alone) for _ in range(_COPIES - 1)
    ]
    return [alone, *copies]


def _caller(model: Callable[..., object], rotation: list[tuple[Any, ...]]) -> Callable[[], object]:
    turns = itertools.cycle(rotation)
    return lambda: model(*next(turns))


@contextmanager
def _eval_mode(models: Iterable[object]) -> Iterator[None]:
    """Eval for every module; afterwards each is as it was, submodule by submodule."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    before = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, was in before:
            part.training = was


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set torch's thread count for a while; None leaves it."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
