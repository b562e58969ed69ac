"""``sparsekd bench linear``: our Linear beside everyone else's, in the same run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from sparsekd.bench.onnx_runtime import onnx_runtime_peers
from sparsekd.bench.openvino_runtime import openvino_peers
from sparsekd.bench.ours import our_peers, pattern_of
from sparsekd.bench.peers import (
    Engine,
    Kind,
    LinearProblem,
    Peer,
    PeerMissingError,
    output_error,
    torch_peers,
)
from sparsekd.bench.result import Entry, LinearBenchResult, Point
from sparsekd.benchmark import measure, torch_threads
from sparsekd.environment import environment

__all__ = ["LinearBenchConfig", "bench_linear", "run_point"]

# Above these an engine does not compute what it says, and its time means nothing.
ERROR_BOUNDS: dict[Kind, float] = {
    "dense fp32": 1e-5,
    "dense bf16": 2e-2,
    "dense int8": 5e-2,
    "sparse int8": 5e-2,
}


@dataclass(frozen=True)
class LinearBenchConfig:
    """Settings of ``sparsekd bench linear``.

    Attributes:
        shapes: in x out features of each layer, separated by commas.
        rows: rows of the input, separated by commas.
        sparsities: shares of weights pruned away, in multiples of 1/32, separated by commas.
        threads: threads of every engine.
        rounds: blocks of calls for each engine; 9 or more for figures worth quoting.
        pause_s: seconds of rest before each block.
        seed: of weights and inputs.
        peers: also run the other engines; without them only ours and torch's are.
        out: folder for linear.json, which holds every sample.
    """

    shapes: str | list[str] = "768x3072,3072x768,4096x4096"
    rows: str | list[int] = "1,16,128"
    sparsities: str | list[float] = "0.5,0.75,0.875"
    threads: int = 2
    rounds: int = 9
    pause_s: float = 0.05
    seed: int = 0
    peers: bool = True
    out: str = "bench-out"

    def __post_init__(self) -> None:
        if self.threads < 1 or self.rounds < 1:
            raise ValueError(
                "bench linear needs threads >= 1 and rounds >= 1, got "
                f"threads={self.threads}, rounds={self.rounds}"
            )
        self.problems()
        self.sparsity_list()

    def problems(self) -> list[tuple[int, int, int]]:
        """(rows, in features, out features) of every point."""
        shapes = [_shape(text) for text in _items(self.shapes)]
        counts = [_positive(text, "rows") for text in _items(self.rows)]
        return [(rows, *shape) for shape in shapes for rows in counts]

    def sparsity_list(self) -> list[float]:
        """The sparsities as numbers.

        Raises:
            ValueError: one is not a number, or no n:32 pattern has it.
        """
        try:
            shares = [float(text) for text in _items(self.sparsities)]
        except ValueError:
            raise ValueError(
                f"sparsities must be numbers such as 0.5,0.75, got {self.sparsities!r}"
            ) from None
        for share in shares:
            pattern_of(share)
        return shares


def bench_linear(config: LinearBenchConfig, *, progress: bool = True) -> LinearBenchResult:
    """Compare Linear layers: ours at each sparsity and dense, and every other engine there is.

    Each engine is checked against float64 before it is timed. Masks come from ``prune_``.

    Args:
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        All figures; they also stand in ``linear.json`` in the folder ``config.out``.

    Raises:
        ValueError: an unknown shape, row count or sparsity.
        NativeMissingError: the compiled part is missing.

    >>> result = bench_linear(LinearBenchConfig(shapes="768x3072", rows="1"))
    >>> result.points[0].best("dense int8").name
    """
    from tqdm import tqdm

    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)  # before the minutes of work that it is for
    contenders = [*our_peers(config.sparsity_list()), *torch_peers()]
    if config.peers:
        contenders += [*onnx_runtime_peers(), *openvino_peers()]
    points = []
    with torch_threads(config.threads):
        where = environment()
        for rows, inputs, outputs in tqdm(
            config.problems(), desc="bench linear", disable=None if progress else True
        ):
            problem = LinearProblem.random(
                inputs, outputs, rows, threads=config.threads, seed=config.seed
            )
            points.append(
                run_point(problem, contenders, rounds=config.rounds, pause_s=config.pause_s)
            )
    result = LinearBenchResult(tuple(points), asdict(config), where)
    target = folder / "linear.json"
    target.write_text(result.to_json() + "\n", encoding="utf-8")
    return replace(result, files=(target,))


def run_point(
    problem: LinearProblem, contenders: Iterable[Peer], *, rounds: int = 9, pause_s: float = 0.05
) -> Point:
    """Build, check and time every contender on one problem.

    Returns:
        The engines that ran; those that did not are named in ``absent`` with the reason.
    """
    absent: dict[str, str] = {}
    ready: list[tuple[Peer, Engine, float, float]] = []
    for peer in contenders:
        start = time.perf_counter()
        try:
            engine = peer.build(problem)
            setup_s = time.perf_counter() - start
            error = output_error(engine, problem)
        except PeerMissingError as missing:
            absent[peer.name] = str(missing)
            continue
        except Exception as failure:  # whatever another engine raises is its result, not ours
            if peer.ours:
                raise
            absent[peer.name] = f"failed: {type(failure).__name__}: {failure}".splitlines()[0]
            continue
        if error <= ERROR_BOUNDS[peer.kind]:
            ready.append((peer, engine, error, setup_s))
        else:
            absent[peer.name] = f"not timed: its output is wrong (relative error {error:.1e})"
    runs = {peer.name: engine.run for peer, engine, _, _ in ready}
    with torch.inference_mode():  # only here: modules that are built under it lose their versions
        times = measure(runs, rounds=rounds, pause_s=pause_s)
    entries = [
        Entry(
            peer.name,
            peer.kind,
            peer.ours,
            engine.version,
            engine.config,
            error,
            setup_s,
            times[peer.name],
        )
        for peer, engine, error, setup_s in ready
    ]
    outputs, inputs = problem.weight.shape
    rows = problem.inputs[0].shape[0]
    return Point(inputs, outputs, rows, tuple(entries), absent)


def _items(value: str | Iterable[object]) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else map(str, value)
    return [part.strip() for part in parts]


def _shape(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2:
        raise ValueError(f"a shape is <in>x<out> such as 768x3072, got {text!r}")
    return _positive(parts[0], "in features"), _positive(parts[1], "out features")


def _positive(text: str, what: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{what} must be a whole number of at least 1, got {text!r}")
    return int(text)
