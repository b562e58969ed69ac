"""``sparsekd bench conv``: our convolutions beside everyone else's, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sparsekd import backend
from sparsekd.bench.conv_layers import ConvLayer, ConvProblem, conv_error, convolutions_of
from sparsekd.bench.conv_ours import our_convolutions
from sparsekd.bench.conv_peers import conv_peers
from sparsekd.bench.conv_result import ConvBenchResult
from sparsekd.bench.definitions import load_definitions
from sparsekd.bench.drawings import draw
from sparsekd.bench.isa import forced_isa
from sparsekd.bench.journal import Journal, conditions
from sparsekd.bench.limits import measure_limits
from sparsekd.bench.progress import Bar
from sparsekd.bench.rates import rate_contenders
from sparsekd.bench.record import Kind, Point, key_of
from sparsekd.bench.runner import Contender, Timing, run_point
from sparsekd.bench.settings import check_isa, check_peers, counts, items, shares
from sparsekd.benchmark import torch_threads
from sparsekd.environment import environment

__all__ = ["ConvBenchConfig", "bench_conv"]

ERROR_BOUNDS: dict[Kind, float] = {
    "dense fp32": 1e-5,
    "sparse fp32": 1e-5,
    "dense int8": 5e-2,
    "sparse int8": 5e-2,
}


@dataclass(frozen=True)
class ConvBenchConfig:
    """Settings of ``sparsekd bench conv``.

    Attributes:
        models: networks whose distinct convolutions are measured, separated by commas.
        layers: only those whose title matches one of these patterns, separated by commas, such as
            "3x3 256->256*" or "*dw*".
        batches: images of a call, separated by commas.
        formats: ours: dense, int8 (windowed), depthwise, fp32 (windowed and depthwise modules),
            separated by commas.
        sparsity: shares of weights pruned away, separated by commas.
        threads: threads of every engine; several counts, separated by commas, are measured in turn.
        rounds: blocks of calls for each engine; 9 or more for figures worth quoting.
        isa: force an instruction set on our engine; ONNX Runtime and OpenVINO are then left out.
        peers: packages of the other engines: torch, onnxruntime, openvino; "none" for ours alone.
        pause_s: seconds of rest before each block.
        seed: of weights and inputs.
        definitions: folder of the models' definitions, in the source tree.
        out: folder for conv.json, which holds every sample, and for the pictures.
    """

    models: str | list[str] = "resnet50,mobilenetv2"
    layers: str | list[str] = "*"
    batches: int | str | list[int] = "1,8"
    formats: str | list[str] = "dense,int8,depthwise,fp32"
    sparsity: float | str | list[float] = "0.75,0.875"
    threads: int | str | list[int] = 2
    rounds: int = 7
    isa: str = ""
    peers: str | list[str] = "torch,onnxruntime,openvino"
    pause_s: float = 0.05
    seed: int = 0
    definitions: str = "bench/models"
    out: str = "bench-out"

    def __post_init__(self) -> None:
        counts(self.batches, "batches")
        counts(self.threads, "threads")
        check_peers(self.peers, self.isa)
        probe = ConvLayer(
            backend.ConvGeometry((64, 64), (1, 1), (1, 1), (1, 1), (0,) * 4, 1), (1, 1)
        )
        our_convolutions(items(self.formats), shares(self.sparsity), probe)
        if not items(self.formats) or self.rounds < 1 or self.pause_s < 0:
            raise ValueError(
                "bench conv needs a format, rounds >= 1 and pause_s >= 0, got "
                f"formats={self.formats!r}, rounds={self.rounds}, pause_s={self.pause_s}"
            )

    def chosen(self) -> dict[ConvLayer, list[str]]:
        """The layers that are asked for and that one of the formats serves, with their names.

        Raises:
            ValueError: an unknown model, or no layer that matches.
            FileNotFoundError: there are no definitions.
        """
        known = load_definitions(self.definitions)
        found: dict[ConvLayer, list[str]] = {}
        for model in items(self.models):
            if model not in known or not known[model].images:
                images = ", ".join(name for name in known if known[name].images)
                raise ValueError(f"unknown network {model!r}; choose among {images}")
            for layer, names in convolutions_of(known[model]).items():
                found.setdefault(layer, []).extend(f"{model} {name}" for name in names)
        patterns = items(self.layers)
        matching = {
            layer: names
            for layer, names in found.items()
            if any(fnmatchcase(layer.title, pattern) for pattern in patterns)
            and our_convolutions(items(self.formats), shares(self.sparsity), layer)
        }
        if not matching:
            titles = ", ".join(layer.title for layer in found)
            raise ValueError(
                f"no layer matches {self.layers!r} and has one of the formats {self.formats!r}; "
                f"there are: {titles}"
            )
        return matching

    def timing(self) -> Timing:
        """How long is measured."""
        return Timing(rounds=self.rounds, pause_s=self.pause_s)


def bench_conv(config: ConvBenchConfig, *, progress: bool = True) -> ConvBenchResult:
    """Compare the distinct convolutions of networks, with u8 in and out and as fp32 modules.

    Each engine is checked against float64 before it is timed. A run that was interrupted goes on
    where it was when it is started again with the same settings.

    Args:
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        All figures; they also stand in ``conv.json`` in the folder ``config.out``.

    Raises:
        ValueError: an unknown model, layer, format, sparsity, peer or instruction set.
        FileNotFoundError: there are no definitions of models.
        ImportError: the compiled part is missing.

    >>> result = bench_conv(ConvBenchConfig(layers="3x3 256->256*", batches=1))
    """
    check_isa(config.isa)
    layers = config.chosen()
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)  # before the minutes of work that it is for
    timing, threads = config.timing(), counts(config.threads, "threads")
    peers = [
        peer for package in check_peers(config.peers, config.isa) for peer in conv_peers(package)
    ]
    with forced_isa(config.isa):
        where = environment()
        where["threads"] = " and ".join(map(str, threads))
        settings = asdict(config)
        journal = Journal(folder, "conv", conditions(settings, where))
        plan = [
            (layer, batch, count, case)
            for layer, names in layers.items()
            for count in threads
            for batch in counts(config.batches, "batches")
            if key_of(case := _case(layer, batch, count, names)) not in journal.points
        ]
        for count in threads:
            measure_limits(journal, count, timing)
        with Bar("bench conv", sum(_seconds(*step[:2], timing) for step in plan), progress) as bar:
            problem: ConvProblem | None = None
            for layer, batch, count, case in plan:
                bar.at(f"{layer.title}, batch {batch}")
                if problem is None or problem.layer != layer:
                    problem = ConvProblem.random(layer, batch, threads=count, seed=config.seed)
                problem = problem.with_inputs(batch, count, config.seed)
                contenders = _contenders(config, layer, peers, count)
                with torch_threads(count):
                    journal.add(_measure(problem, contenders, timing, case))
                bar.done(_seconds(layer, batch, timing))
    names = {layer.title: found for layer, found in layers.items()}
    result = ConvBenchResult(tuple(journal.points.values()), settings, where, names=names)
    files = (*result.write_all(folder), *draw(result, folder, _place))
    journal.close()
    return replace(result, files=files)


def _place(point: Point) -> tuple[str, str]:
    """A panel for each kind of kernel and batch, a line for the channels and size."""
    kernel, rest = point.title.split(" ", 1)
    layer, batch = rest.rsplit(", ", 1)
    return f"{kernel}, {batch}", layer


def _contenders(
    config: ConvBenchConfig, layer: ConvLayer, peers: list[Contender[ConvProblem]], threads: int
) -> list[Contender[ConvProblem]]:
    ours = our_convolutions(items(config.formats), shares(config.sparsity), layer)
    against = {f"dense {c.kind.split()[1]}" for c in ours}
    rates = ["vpdpbusd"] if "dense int8" in against else []
    rates += ["fma"] if "dense fp32" in against else []
    return [
        *ours,
        *(peer for peer in peers if peer.kind in against),
        *rate_contenders(rates, threads),
    ]


def _measure(
    problem: ConvProblem,
    contenders: Iterable[Contender[ConvProblem]],
    timing: Timing,
    case: dict[str, Any],
) -> Point:
    return run_point(
        problem,
        contenders,
        timing,
        title=f"{problem.layer.title}, batch {case['batch']}",
        case=case,
        error_of=lambda engine, given, _: conv_error(engine, given),
        bounds=ERROR_BOUNDS,
    )


def _case(layer: ConvLayer, batch: int, threads: int, names: list[str]) -> dict[str, Any]:
    g = layer.geometry
    return {
        "batch": batch,
        "channels": list(g.channels),
        "kernel": list(g.kernel),
        "stride": list(g.stride),
        "dilation": list(g.dilation),
        "padding": list(g.padding),
        "groups": g.groups,
        "size": list(layer.size),
        "models": sorted({name.split()[0] for name in names}),
        "threads": threads,
        "isa": backend.isa(),
    }


def _seconds(layer: ConvLayer, batch: int, timing: Timing) -> float:
    """About how long a point takes, for the progress bar."""
    call = layer.multiply_adds(batch) / 2e11
    return 12 * timing.seconds(call) + 1.0
