"""``sparsekd bench linear``: our Linear beside everyone else's, in the same run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sparsekd import backend
from sparsekd.bench.drawings import draw
from sparsekd.bench.isa import forced_isa
from sparsekd.bench.journal import Journal, conditions
from sparsekd.bench.limits import measure_limits
from sparsekd.bench.linear_plan import (
    PRESETS,
    Layer,
    Part,
    PlannedPoint,
    plan,
    trained_weight,
)
from sparsekd.bench.linear_problem import LinearProblem, output_error
from sparsekd.bench.linear_result import LinearBenchResult
from sparsekd.bench.progress import Bar
from sparsekd.bench.record import Kind, Point, key_of
from sparsekd.bench.runner import Contender, Timing, run_point
from sparsekd.bench.settings import check_isa, check_peers, counts, items, shares
from sparsekd.benchmark import torch_threads
from sparsekd.environment import environment

__all__ = ["LinearBenchConfig", "bench_linear", "run_linear"]

# Above these an engine does not compute what it says, and its time means nothing.
ERROR_BOUNDS: dict[Kind, float] = {
    "dense fp32": 1e-5,
    "sparse fp32": 1e-5,
    "dense bf16": 2e-2,
    "sparse bf16": 2e-2,
    "dense int8": 5e-2,
    "sparse int8": 5e-2,
}


@dataclass(frozen=True)
class LinearBenchConfig:
    """Settings of ``sparsekd bench linear``.

    Attributes:
        preset: quick (a minute), readme, int8, masks, float or full; what is set below replaces
            its part of it.
        shapes: in x out features of each layer, separated by commas; "minilm" stands for layers of
            a trained encoder.
        rows: rows of the input, separated by commas.
        formats: ours: int8, dense, int8-any, int8-snap, fp32-n16, fp32-n32, fp32-any, bf16, csr;
            separated by commas.
        sparsity: shares of weights pruned away, separated by commas.
        threads: threads of every engine; several counts, separated by commas, are measured in turn.
        rounds: blocks of calls for each engine, 9 or more for figures worth quoting; 0: as many as
            the preset has.
        isa: force an instruction set on our engine, and its like on torch's dynamic int8 (made with
            oneDNN, under ONEDNN_MAX_CPU_ISA); ONNX Runtime and OpenVINO are then left out.
        peers: packages of the other engines: torch, onnxruntime, openvino; "none" for ours alone.
        pause_s: seconds of rest before each block.
        seed: of weights and inputs.
        definitions: folder of the models' definitions, for "minilm".
        out: folder for linear.json, which holds every sample, and for the pictures.
    """

    preset: str = "quick"
    shapes: str | list[str] | None = None
    rows: int | str | list[int] | None = None
    formats: str | list[str] | None = None
    sparsity: float | str | list[float] | None = None
    threads: int | str | list[int] = 2
    rounds: int = 0
    isa: str = ""
    peers: str | list[str] = "torch,onnxruntime,openvino"
    pause_s: float = 0.05
    seed: int = 0
    definitions: str = "bench/models"
    out: str = "bench-out"

    def __post_init__(self) -> None:
        for part in self.parts():
            part.check()
        self.thread_list()
        self.peer_list()
        if self.rounds < 0 or self.pause_s < 0:
            raise ValueError(
                "bench linear needs rounds >= 0 and pause_s >= 0, got "
                f"rounds={self.rounds}, pause_s={self.pause_s}"
            )

    def parts(self) -> list[Part]:
        """What is measured.

        Raises:
            ValueError: an unknown preset, or a wrong word in one of the lists.
        """
        if self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; choose among {', '.join(PRESETS)}")
        parts = PRESETS[self.preset].parts
        if self.formats is not None:
            # Formats of one's own make one part: those of the preset belong to its formats.
            if not items(self.formats):
                raise ValueError("at least one format is needed, such as int8,dense")
            parts = (replace(parts[0], formats=tuple(items(self.formats)), sparsities=()),)
        if self.shapes is not None:
            parts = tuple(replace(part, shapes=tuple(items(self.shapes))) for part in parts)
        if self.rows is not None:
            rows = tuple(counts(self.rows, "rows"))
            parts = tuple(replace(part, rows=rows) for part in parts)
        if self.sparsity is not None:
            wanted = tuple(shares(self.sparsity))
            parts = tuple(replace(part, sparsities=wanted) for part in parts)
        return list(parts)

    def thread_list(self) -> list[int]:
        """The thread counts."""
        return counts(self.threads, "threads")

    def peer_list(self) -> list[str]:
        """The packages of the others; of a forced instruction set torch alone knows."""
        return check_peers(self.peers, self.isa)

    def timing(self) -> Timing:
        """How long is measured."""
        rounds = self.rounds or PRESETS[self.preset].rounds
        return Timing(rounds=rounds, pause_s=self.pause_s)


def bench_linear(config: LinearBenchConfig, *, progress: bool = True) -> LinearBenchResult:
    """Compare Linear layers: ours in several formats, and every other engine there is.

    Each engine is checked against float64 before it is timed. Masks come from ``prune_``. A run
    that was interrupted goes on where it was when it is started again with the same settings.

    Args:
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        All figures; they also stand in ``linear.json`` in the folder ``config.out``.

    Raises:
        ValueError: an unknown shape, format, sparsity, peer or instruction set.
        ImportError: the compiled part is missing, or the trained weights that were asked for.

    >>> result = bench_linear(LinearBenchConfig(shapes="768x3072", rows="1"))
    >>> result.points[-1].best("dense int8").name
    """
    check_isa(config.isa)
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)  # before the minutes of work that it is for
    timing = config.timing()
    planned = plan(config.parts(), config.thread_list(), config.peer_list())
    with forced_isa(config.isa):
        where = environment()
        where["threads"] = " and ".join(map(str, config.thread_list()))
        settings = asdict(config)
        journal = Journal(folder, "linear", conditions(settings, where))
        left = [point for point in planned if key_of(_case(point)) not in journal.points]
        for threads in config.thread_list():
            measure_limits(journal, threads, timing)
        with Bar("bench linear", sum(p.seconds(timing) for p in left), progress) as bar:
            problem: LinearProblem | None = None
            layer: Layer | None = None
            for point in left:
                bar.at(point.layer.title(point.rows))
                if problem is None or layer != point.layer:
                    layer = point.layer
                    problem = _problem(layer, config)  # the one before it is freed
                problem = problem.with_inputs(point.rows, threads=point.threads, seed=config.seed)
                with torch_threads(point.threads):
                    journal.add(_measure(point, problem, timing))
                bar.done(point.seconds(timing))
    result = LinearBenchResult(tuple(journal.points.values()), settings, where)
    files = (*result.write_all(folder), *draw(result, folder, _place))
    journal.close()
    return replace(result, files=files)


def run_linear(
    problem: LinearProblem,
    contenders: list[Contender[LinearProblem]],
    timing: Timing,
    *,
    title: str = "",
    case: dict[str, object] | None = None,
) -> Point:
    """Build, check and time every contender on one problem."""
    return run_point(
        problem,
        contenders,
        timing,
        title=title,
        case=case or {},
        error_of=lambda engine, given, _: output_error(engine, given),
        bounds=ERROR_BOUNDS,
    )


def _place(point: Point) -> tuple[str, str]:
    """A panel for each layer, a line for the rows."""
    rows = point.case["rows"]
    return point.title.split("x", 1)[1], f"{rows} row{'s' * (rows != 1)}"


def _problem(layer: Layer, config: LinearBenchConfig) -> LinearProblem:
    if layer.weights == "random":
        return LinearProblem.random(layer.inputs, layer.outputs, 1, threads=1, seed=config.seed)
    weight = trained_weight(layer.weights, config.definitions)
    return LinearProblem.of(weight, 1, threads=1, seed=config.seed)


def _case(point: PlannedPoint) -> dict[str, object]:
    return {
        "rows": point.rows,
        "in": point.layer.inputs,
        "out": point.layer.outputs,
        "weights": point.layer.weights,
        "threads": point.threads,
        "isa": backend.isa(),
    }


def _measure(point: PlannedPoint, problem: LinearProblem, timing: Timing) -> Point:
    title = point.layer.title(point.rows)
    return run_linear(problem, list(point.contenders), timing, title=title, case=_case(point))
