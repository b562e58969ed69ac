"""The quickstart from end to end."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsekd import backend
from sparsekd.benchmark import benchmark
from sparsekd.convert import ConversionReport, convert
from sparsekd.environment import environment, where_text
from sparsekd.folding import FOLDABLE, find_folds, fold_
from sparsekd.io import load, save
from sparsekd.modules import weight_mask
from sparsekd.quickstart.config import QuickstartConfig
from sparsekd.quickstart.data import Digits, load_digits
from sparsekd.quickstart.recipe import Recipe
from sparsekd.quickstart.result import ModelRow, QuickstartResult
from sparsekd.quickstart.training import Trainer, correct
from sparsekd.report import Series, accuracy_latency_picture
from sparsekd.verify import verify

__all__ = ["quickstart"]

BATCHES = (1, 32, 256)
_INPUTS = 4  # different batches that the calls of a measurement rotate among
_REFERENCE = ("distilled", "torch fp32")  # what the ratios refer to

Models = dict[tuple[str, str], nn.Module]  # by model and runtime


@dataclass(frozen=True)
class _Run:
    """The models of one seed; the last of ``models`` is the engine's."""

    seed: int
    models: Models
    compressed: nn.Module  # the engine model's reference: pruned, fake-quantized, on torch

    @property
    def engine(self) -> nn.Module:
        return list(self.models.values())[-1]

    @property
    def coverage(self) -> ConversionReport:
        report = self.engine.sparsekd_report
        assert isinstance(report, ConversionReport)  # convert hangs it on its result
        return report


def quickstart(
    config: QuickstartConfig | None = None, *, progress: bool = True
) -> QuickstartResult:
    """Train, compress, convert, verify, save, load and measure classifiers of the UCI digits.

    Args:
        config: None takes the defaults.
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        All figures. ``quickstart.json``, ``quickstart.png`` and ``student.safetensors`` stand in
        the folder ``config.out``.

    Raises:
        NativeMissingError: the compiled part is missing.
        OSError: the folder can not be written.

    >>> result = quickstart(QuickstartConfig(seeds=1, epochs=4))
    >>> result.verified
    True
    """
    config = QuickstartConfig() if config is None else config
    start = time.perf_counter()
    backend.require()  # before the minute of training that would be lost
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = config.recipe()
    digits = load_digits().as_images() if recipe.images else load_digits()
    with _deterministic():  # training alone: torch's own int8 has no such mode
        runs = _train(digits, recipe, config, progress)
    first = runs[0]
    checks = {
        f"seed {run.seed}": verify(run.engine, run.compressed, digits.test_images) for run in runs
    }
    saved = folder / "student.safetensors"
    save(first.engine, saved)
    with torch.device("meta"):
        empty = recipe.build(recipe.width)
    loaded = load(saved, empty)
    checks["saved and loaded"] = verify(loaded, first.compressed, digits.test_images)
    right = _count_correct(runs, digits)
    result = QuickstartResult(
        rows=_rows(first, right, saved.stat().st_size, digits, config.rounds),
        reference=list(first.models).index(_REFERENCE),
        checks={name: report.to_dict() for name, report in checks.items()},
        conversion=first.coverage,
        settings=config.settled(),
        environment=environment(),
        seconds=time.perf_counter() - start,
        notes=(recipe.note,) if recipe.note else (),
        files=(saved,),
    )
    return _write(result, folder)


def _train(digits: Digits, recipe: Recipe, config: QuickstartConfig, progress: bool) -> list[_Run]:
    """All models of all seeds, trained and converted."""
    from tqdm import tqdm

    runs = []
    compressed_name = f"distilled + {recipe.pattern} + int8"
    rival, make_rival = recipe.rival
    plan = Trainer(digits, recipe, config.seed)
    steps = plan.steps(recipe.teacher_epochs) + 3 * plan.steps(recipe.epochs)
    with tqdm(total=config.seeds * steps, unit="step", disable=None if progress else True) as bar:
        for seed in range(config.seed, config.seed + config.seeds):
            train = Trainer(digits, recipe, seed, on_step=bar.update)

            def say(what: str, seed: int = seed) -> None:
                bar.set_description(f"seed {seed}: {what}")

            say("teacher")
            teacher = train.teacher()
            say("labels only")
            labels_only = train.labels_only()
            say("distilled")
            distilled = train.distilled(teacher)
            say(compressed_name)
            compressed = train.compressed(teacher)
            for trained in (teacher, labels_only, distilled):
                _fold_norms(trained)
            models: Models = {
                ("teacher", "torch fp32"): teacher,
                ("labels only", "torch fp32"): labels_only,
                _REFERENCE: distilled,
                ("distilled", rival): make_rival(distilled, digits.train_images),
                (compressed_name, "sparsekd"): convert(compressed),
            }
            runs.append(_Run(seed, models, compressed))
    return runs


def _fold_norms(model: nn.Module) -> None:
    """Put each BatchNorm into the weights before it, as one who serves the model would."""
    layers = [name for name, module in model.named_modules() if type(module) in FOLDABLE]
    fold_(model, find_folds(model, layers)[0])


def _count_correct(runs: list[_Run], digits: Digits) -> dict[tuple[str, str], tuple[int, ...]]:
    """For each model the images that it puts in the right class, seed by seed."""
    images, labels = digits.test_images, digits.test_labels
    return {
        key: tuple(correct(run.models[key], images, labels) for run in runs)
        for key in runs[0].models
    }


def _rows(
    run: _Run,
    right: dict[tuple[str, str], tuple[int, ...]],
    engine_bytes: int,
    digits: Digits,
    rounds: int,
) -> tuple[ModelRow, ...]:
    """Sizes and latencies of one seed's models, beside the accuracies of all seeds."""
    names = {f"{model}, {runtime}": model_ for (model, runtime), model_ in run.models.items()}
    cases = {f"batch {size}": _inputs(digits.test_images, size) for size in BATCHES}
    times = benchmark(names, cases, rounds=rounds)
    rows = []
    for (model, runtime), module in run.models.items():
        is_engine = module is run.engine
        # An int8 model of torch has its weights packed out of sight.
        counted = run.compressed if is_engine else run.models[model, "torch fp32"]
        rows.append(
            ModelRow(
                model,
                runtime,
                right[model, runtime],
                images=len(digits.test_labels),
                kept=_kept(counted),
                parameters=sum(p.numel() for p in counted.parameters()),
                file_bytes=engine_bytes if is_engine else _torch_file_bytes(module),
                latency={c: times.row(f"{model}, {runtime}", c).samples for c in cases},
            )
        )
    return tuple(rows)


def _inputs(images: Tensor, size: int) -> list[Tensor]:
    """Different batches of that many images, taken around the test images."""
    return [images.roll(-size * turn, dims=0)[:size].clone() for turn in range(_INPUTS)]


def _kept(model: nn.Module) -> int:
    """Parameters that no mask takes away."""
    masks = [mask for part in model.modules() if (mask := weight_mask(part)) is not None]
    return sum(p.numel() for p in model.parameters()) - sum(int((~m).sum()) for m in masks)


def _torch_file_bytes(model: nn.Module) -> int:
    """The size of what torch's users save."""
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated")
        torch.save(model.state_dict(), target)
    return target.tell()


def _write(result: QuickstartResult, folder: Path) -> QuickstartResult:
    """Write the picture, if it can be drawn, and the JSON."""
    series = [
        Series(
            row.name,
            row.accuracy,
            row.accuracy_sd,
            {case: samples.median for case, samples in row.latency.items()},
            row.file_bytes,
        )
        for row in result.rows
    ]
    seeds = len(result.rows[0].correct)
    try:
        picture = accuracy_latency_picture(
            series,
            folder / "quickstart.png",
            title=f"UCI digits, {result.settings['model']}: accuracy against latency; "
            "area = file size",
            subtitle=f"{where_text(result.environment)}; "
            f"accuracy: mean of {seeds} seed{'s' * (seeds > 1)}",
        )
        result = replace(result, files=(picture, *result.files))
    except ImportError as error:
        result = replace(result, notes=(*result.notes, f"no picture: {error}"))
    figures = folder / "quickstart.json"
    figures.write_text(result.to_json() + "\n", encoding="utf-8")
    return replace(result, files=(*result.files, figures))


@contextmanager
def _deterministic() -> Iterator[None]:
    """The same accuracies for the same seed, and the caller's random state and mode untouched."""
    mode, settings = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic
    fill = settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]):
        torch.use_deterministic_algorithms(True)
        # It guards against reads that nothing here makes, for a tenth of the time.
        settings.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(mode)
            settings.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
