"""``sparsekd bench model``: whole models, ours beside everyone else's, in the same run."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsekd.bench.definitions import ModelDefinition, load_definitions
from sparsekd.bench.model_result import ModelBenchResult, ModelCase, ModelFigures
from sparsekd.bench.networks import Contender, NetworkProblem, network_peers
from sparsekd.bench.ours import pattern_of
from sparsekd.bench.peers import Engine, Kind, PeerMissingError
from sparsekd.bench.result import Entry
from sparsekd.bench.variants import make_variant
from sparsekd.benchmark import measure, torch_threads
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
        sparsities: shares of weights pruned away in one shot, in multiples of 1/32, separated by
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
    sparsities: str | list[float] = "0.5,0.75"
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
        parts = _items(self.sparsities)
        try:
            shares = [float(text) for text in parts]
        except ValueError:
            raise ValueError(
                f"sparsities must be numbers such as 0.5,0.75, got {self.sparsities!r}"
            ) from None
        for share in shares:
            pattern_of(share)
        return shares

    def chosen(self) -> Mapping[str, ModelDefinition]:
        """The definitions of the models that were named.

        Raises:
            ValueError: a name that is not defined; the message lists those that are.
            FileNotFoundError: there are no definitions.
        """
        known = load_definitions(self.definitions)
        names = _items(self.models)
        for name in names:
            if name not in known:
                raise ValueError(f"unknown model {name!r}; choose among {', '.join(known)}")
        if not names:
            raise ValueError(f"no model named; choose among {', '.join(known)}")
        return {name: known[name] for name in names}


def bench_model(config: ModelBenchConfig, *, progress: bool = True) -> ModelBenchResult:
    """Compare whole models: ours, dense int8 and at each sparsity, and every other engine there is.

    Each of our models is verified against its fake-quantized torch model before it is timed, and
    each engine's output is checked against float64.

    Args:
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        All figures; they also stand in ``model.json`` in the folder ``config.out``.

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
    with (
        torch_threads(config.threads),
        tqdm(total=steps, desc="bench model", disable=None if progress else True) as bar,
    ):
        where = environment()
        for name, definition in chosen.items():
            found.append(_bench_one(name, definition, config, bar.update))
    result = ModelBenchResult(tuple(found), asdict(config), where)
    target = folder / "model.json"
    target.write_text(result.to_json() + "\n", encoding="utf-8")
    return replace(result, files=(target,))


def _bench_one(
    name: str, definition: ModelDefinition, config: ModelBenchConfig, step: Callable[[], object]
) -> ModelFigures:
    model = definition.build()
    variants = [make_variant(definition, model, s) for s in (0.0, *config.sparsity_list())]
    peers = network_peers(images=definition.images, dynamic=definition.dynamic)
    if not config.peers:
        peers = [peer for peer in peers if peer.name.startswith("torch fp32")]
    ours = [c for variant in variants for c in variant.contenders(images=definition.images)]
    step()
    exported = definition.export_form(model) if definition.export_form else None
    cases = []
    for case, inputs in definition.cases.items():
        problem = NetworkProblem(
            model, tuple(inputs()), config.threads, definition.dynamic, exported
        )
        entries, absent = run_case(problem, [*ours, *peers], config)
        cases.append(ModelCase(case, entries, absent))
        step()
    parameters = sum(p.numel() for p in model.parameters())
    return ModelFigures(name, definition.note, parameters, tuple(variants), tuple(cases))


def run_case(
    problem: NetworkProblem, contenders: Iterable[Contender], config: ModelBenchConfig
) -> tuple[tuple[Entry, ...], dict[str, str]]:
    """Build, check and time every contender on one shape of inputs.

    Returns:
        (the engines that ran, name of each that did not and the reason).
    """
    references = _References(problem)
    absent: dict[str, str] = {}
    ready: list[tuple[Contender, Engine, float, float]] = []
    for contender in contenders:
        start = time.perf_counter()
        try:
            engine = contender.build(problem)
            setup_s = time.perf_counter() - start
            error = _error(engine.output(0), references.of(contender.reference or problem.model))
        except PeerMissingError as missing:
            absent[contender.name] = str(missing)
            continue
        except Exception as failure:  # whatever another engine raises is its result, not ours
            if contender.ours:
                raise
            reason = f"failed: {type(failure).__name__}: {failure}"
            absent[contender.name] = reason.splitlines()[0][:200]
            continue
        if error <= ERROR_BOUNDS[contender.kind]:
            ready.append((contender, engine, error, setup_s))
        else:
            absent[contender.name] = f"not timed: its output is wrong (relative error {error:.1e})"
    runs = {contender.name: engine.run for contender, engine, _, _ in ready}
    with torch.inference_mode():  # only here: modules that are built under it lose their versions
        times = measure(runs, rounds=config.rounds, calls=config.calls, pause_s=config.pause_s)
    entries = tuple(
        Entry(c.name, c.kind, c.ours, e.version, e.config, error, setup_s, times[c.name])
        for c, e, error, setup_s in ready
    )
    return entries, absent


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


def _items(value: str | Iterable[object]) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else map(str, value)
    return [text for part in parts if (text := part.strip())]
