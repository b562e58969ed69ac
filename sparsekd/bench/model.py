"""``sparsekd bench model``: whole models, ours beside everyone else's, in the same run."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsekd.bench.definitions import ModelDefinition, load_definitions
from sparsekd.bench.drawings import draw_times
from sparsekd.bench.journal import Journal, conditions
from sparsekd.bench.model_result import ModelBenchResult, ModelFigures
from sparsekd.bench.networks import NetworkProblem, channels_last, network_peers
from sparsekd.bench.ours import pattern_of
from sparsekd.bench.peers import Engine
from sparsekd.bench.record import Kind, Point, key_of
from sparsekd.bench.runner import Contender, Timing, run_point
from sparsekd.bench.settings import items, shares
from sparsekd.bench.time_split import split_time
from sparsekd.bench.variants import make_variant
from sparsekd.benchmark import torch_threads
from sparsekd.environment import environment

__all__ = ["ModelBenchConfig", "bench_model", "run_case"]

# Above these an engine does not compute the model, and its time means nothing. Int8 rounds at each
# layer, and one engine's int8 is off by half on an encoder; that stands beside its time. With zeros
# for an output the error is 1.
ERROR_BOUNDS: dict[Kind, float] = {
    "dense fp32": 1e-3,
    "dense bf16": 0.8,
    "dense int8": 0.8,
    "sparse int8": 0.8,
}


@dataclass(frozen=True)
class ModelBenchConfig:
    """Settings of ``sparsekd bench model``.

    Attributes:
        models: names of models, separated by commas.
        sparsity: shares of weights pruned away in one shot, in multiples of 1/32, separated by
            commas; the unpruned model is measured as well.
        threads: threads of every engine.
        rounds: blocks of calls for each engine; 9 or more for figures worth quoting.
        calls: timings in a block, of which the first half is dropped.
        pause_s: seconds of rest before each block.
        peers: also run the other engines; without them only torch's fp32 and ours.
        definitions: folder of the models' definitions, in the source tree.
        out: folder for model.json, which holds every sample.
    """

    models: str | list[str] = "resnet18,minilm"
    sparsity: float | str | list[float] = "0.5,0.75"
    threads: int = 2
    rounds: int = 9
    calls: int = 10
    pause_s: float = 0.05
    peers: bool = True
    definitions: str = "bench/models"
    out: str = "bench-out"

    def __post_init__(self) -> None:
        if self.threads < 1 or self.rounds < 1 or self.calls < 2:
            raise ValueError(
                "bench model needs threads >= 1, rounds >= 1 and calls >= 2, got "
                f"threads={self.threads}, rounds={self.rounds}, calls={self.calls}"
            )
        self.sparsity_list()

    def sparsity_list(self) -> list[float]:
        """The sparsities as numbers.

        Raises:
            ValueError: one is not a number, or no n:32 pattern has it.
        """
        wanted = shares(self.sparsity)
        for share in wanted:
            pattern_of(share)
        return wanted

    def timing(self) -> Timing:
        """How long is measured."""
        return Timing(rounds=self.rounds, calls=self.calls, pause_s=self.pause_s, max_block_s=2.0)

    def chosen(self) -> Mapping[str, ModelDefinition]:
        """The definitions of the models that were named.

        Raises:
            ValueError: a name that is not defined; the message lists those that are.
            FileNotFoundError: there are no definitions.
        """
        known = load_definitions(self.definitions)
        names = items(self.models)
        for name in names:
            if name not in known:
                raise ValueError(f"unknown model {name!r}; choose among {', '.join(known)}")
        if not names:
            raise ValueError(f"no model named; choose among {', '.join(known)}")
        return {name: known[name] for name in names}


def bench_model(config: ModelBenchConfig, *, progress: bool = True) -> ModelBenchResult:
    """Compare whole models: ours, dense int8 and at each sparsity, and every other engine there is.

    Each of our models is verified against its fake-quantized torch model before it is timed, and
    each engine's output is checked against float64. A run that was interrupted goes on where it
    was when it is started again with the same settings.

    Args:
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        All figures; they also stand in ``model.json`` in the folder ``config.out``, and where
        matplotlib is installed in a picture beside it.

    Raises:
        ValueError: an unknown model or sparsity.
        FileNotFoundError: no definitions, or the sentences of an encoder are not on this machine.
        ImportError: a model's weights or the compiled part is missing; the message has the remedy.

    >>> result = bench_model(ModelBenchConfig(models="resnet18"))
    >>> result.verified
    True
    """
    from tqdm import tqdm

    chosen = config.chosen()
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)  # before the minutes of work that it is for
    steps = sum(1 + len(definition.cases) for definition in chosen.values())
    found = []
    settings, where = asdict(config), environment()
    journal = Journal(folder, "model", conditions(settings, where))
    with (
        torch_threads(config.threads),
        tqdm(total=steps, desc="bench model", disable=None if progress else True) as bar,
    ):
        for name, definition in chosen.items():
            found.append(_bench_one(name, definition, config, journal, bar.update))
    where["threads"] = config.threads
    points = tuple(journal.points.values())
    result = ModelBenchResult(points, settings, where, models=tuple(found))
    result = replace(result, files=(result.write(folder), *draw_times(result, folder)))
    journal.close()
    return result


def _bench_one(
    name: str,
    definition: ModelDefinition,
    config: ModelBenchConfig,
    journal: Journal,
    step: Callable[[], object],
) -> ModelFigures:
    model = definition.build()
    variants = [make_variant(definition, model, s) for s in (0.0, *config.sparsity_list())]
    peers = network_peers(images=definition.images, dynamic=definition.dynamic)
    if not config.peers:
        peers = [peer for peer in peers if peer.name.startswith("torch fp32")]
    ours = [c for variant in variants for c in variant.contenders(images=definition.images)]
    step()
    exported = definition.export_form(model) if definition.export_form else None
    for case, inputs in definition.cases.items():
        told = {"model": name, "case": case, "threads": config.threads}
        if key_of(told) not in journal.points:
            problem = NetworkProblem(
                model, tuple(inputs()), config.threads, definition.dynamic, exported
            )
            journal.add(run_case(problem, [*ours, *peers], config.timing(), f"{name} {case}", told))
        step()
    splits = [
        split_time(
            variant.engine,
            [tuple(map(channels_last, arguments)) for arguments in inputs()],
            case=case,
            variant=variant.name,
        )
        for case, inputs in definition.cases.items()
        for variant in variants
    ]
    parameters = sum(p.numel() for p in model.parameters())
    found = tuple(split for split in splits if split)
    return ModelFigures(name, definition.note, parameters, tuple(variants), found)


def run_case(
    problem: NetworkProblem,
    contenders: Iterable[Contender[NetworkProblem]],
    timing: Timing,
    title: str = "",
    case: Mapping[str, Any] | None = None,
) -> Point:
    """Build, check and time every contender on one shape of inputs."""
    references = _References(problem)

    def error(engine: Engine, given: NetworkProblem, _: object) -> float:
        return _error(engine.output(0), references.of(engine.model or given.model))

    return run_point(
        problem,
        contenders,
        timing,
        title=title,
        case=case or {},
        error_of=error,
        bounds=ERROR_BOUNDS,
    )


class _References:
    """Float64 outputs for the first input, computed once for each set of weights."""

    def __init__(self, problem: NetworkProblem) -> None:
        self._arguments = tuple(
            x.double() if x.is_floating_point() else x for x in problem.inputs[0]
        )
        self._known: dict[int, Tensor] = {}

    def of(self, model: nn.Module) -> Tensor:
        if id(model) not in self._known:
            with torch.inference_mode():
                self._known[id(model)] = copy.deepcopy(model).double()(*self._arguments)
        return self._known[id(model)]


def _error(output: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of the expected output."""
    right = float(expected.square().sum())
    wrong = float((output.double() - expected).square().sum())
    return math.sqrt(wrong / right if right else wrong)
