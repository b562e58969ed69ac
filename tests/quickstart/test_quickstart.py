"""The quickstart keeps its promises on a small budget; accuracy and speed are for the real run."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from rich.console import Console
from torch import nn

import sparsekd as skd
from sparsekd.benchmark import Samples
from sparsekd.modules import quant_spec, weight_mask
from sparsekd.quickstart import ModelRow, QuickstartConfig, QuickstartResult, quickstart
from sparsekd.quickstart.data import Digits, load_digits
from sparsekd.quickstart.recipe import RECIPES, cnn
from sparsekd.quickstart.result import gain
from sparsekd.quickstart.rivals import static_int8
from sparsekd.quickstart.run import _fold_norms
from sparsekd.quickstart.training import Trainer, correct
from sparsekd.report import show

SMALL = {
    "mlp": QuickstartConfig(seeds=2, epochs=10, width=64, teacher_width=96, rounds=1),
    "cnn": QuickstartConfig("cnn", seeds=2, epochs=10, width=32, teacher_width=48, rounds=1),
}
RIVALS = {"mlp": "torch dynamic int8", "cnn": "torch static int8"}
ON_ENGINE = {  # layers and their kernels
    "mlp": {"0": "dense", "2": "windowed", "4": "dense"},
    "cnn": {
        "stem.conv": "dense",
        "down.conv": "windowed",
        "body1.conv": "windowed",
        "body2.conv": "windowed",
        "head": "dense",
    },
}


@pytest.fixture(scope="module", params=list(SMALL))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    folder = str(tmp_path_factory.mktemp(request.param))
    result = quickstart(replace(SMALL[request.param], out=folder), progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(threads)
    return result


def config_of(run: QuickstartResult) -> QuickstartConfig:
    return SMALL[run.settings["model"]]


def test_each_verification_passes_exactly(run: QuickstartResult) -> None:
    assert list(run.checks) == ["seed 0", "seed 1", "saved and loaded"]
    assert run.verified
    for check in run.checks.values():
        assert len(check["layers"]) == len(ON_ENGINE[config_of(run).model])
        assert {layer["rule"] for layer in check["layers"]} == {"exact"}
        assert check["output"]["max_abs"] == 0.0


def test_rows_are_the_models_and_runtimes_that_are_promised(run: QuickstartResult) -> None:
    assert [(row.model, row.runtime) for row in run.rows] == [
        ("teacher", "torch fp32"),
        ("labels only", "torch fp32"),
        ("distilled", "torch fp32"),
        ("distilled", RIVALS[config_of(run).model]),
        ("distilled + 4:32 + int8", "sparsekd"),
    ]
    assert run.rows[run.reference].name == "distilled, torch fp32"
    for row in run.rows:
        assert list(row.latency) == ["batch 1", "batch 32", "batch 256"]
        assert len(row.correct) == 2
        assert row.accuracy > 0.5  # it learns: chance is 0.1


def test_every_layer_runs_on_the_engine_and_the_report_says_on_what(run: QuickstartResult) -> None:
    name = config_of(run).model
    on_engine = {row.name: row.kernel for row in run.conversion.rows if row.scheme}
    assert on_engine == ON_ENGINE[name]
    left = {row.kind for row in run.conversion.rows if row.kernel == "torch"}
    assert left == ({"AdaptiveAvgPool2d", "Flatten"} if name == "cnn" else set())
    stream = io.StringIO()
    show(run, stream)
    text = stream.getvalue()
    for row in run.conversion.rows:
        assert re.search(rf"^ *{re.escape(row.name)} +.*{row.kernel}", text, flags=re.MULTILINE)


def test_sizes_are_those_of_the_files(run: QuickstartResult) -> None:
    student, engine = run.rows[run.reference], run.rows[-1]
    if config_of(run).model == "mlp":
        pruned, others = 64 * 64, 65 * 64 + 64 + 65 * 10
    else:  # a convolution's bias is what folding made
        pruned, others = 9 * (16 + 32 + 32) * 32, (9 + 1) * 16 + 3 * 32 + 33 * 10
    assert student.kept == student.parameters == engine.parameters == pruned + others
    assert engine.kept == pruned // 8 + others  # 4 of 32, 2 of a short group of 16
    saved = next(path for path in run.files if path.name == "student.safetensors")
    assert engine.file_bytes == saved.stat().st_size
    floats = 4 * (pruned + others)
    assert floats < student.file_bytes < floats + 5000


def test_saved_file_is_the_engine_row(run: QuickstartResult) -> None:
    path = next(path for path in run.files if path.name == "student.safetensors")
    recipe = config_of(run).recipe()
    with torch.device("meta"):
        empty = recipe.build(recipe.width)
    model = skd.load(path, empty)
    digits = load_digits().as_images() if recipe.images else load_digits()
    assert correct(model, digits.test_images, digits.test_labels) == run.rows[-1].correct[0]


def test_json_holds_every_figure(run: QuickstartResult) -> None:
    path = next(path for path in run.files if path.suffix == ".json")
    read = json.loads(path.read_text())
    config = config_of(run)
    assert read["settings"]["model"] == config.model
    assert read["settings"]["epochs"] == 10
    assert read["settings"]["batch_size"] == 128  # the recipe's own
    assert read["environment"]["isa"] == skd.backend.isa()
    assert read["verified"] is True
    assert len(read["gains"]) == 2
    assert read["conversion"] == json.loads(json.dumps(run.conversion.to_dict()))
    for row, told in zip(run.rows, read["rows"], strict=True):
        assert told["correct"] == list(row.correct)
        assert told["images"] == 539
        for case, samples in row.latency.items():
            assert told["latency"][case]["samples_s"] == list(samples.seconds)
            assert told["ratio"][case] == run.ratio(row, case)


def test_table_tells_every_row_and_the_spread(run: QuickstartResult) -> None:
    stream = io.StringIO()
    show(run, stream)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 120
    for row in run.rows:
        assert f"{sum(row.correct)}" in text
        assert row.runtime in text
    assert "of 1078" in text
    assert "\u00b1" in text
    assert "verification: 3 of 3 passed, equal to torch bit for bit" in text


def test_table_is_whole_in_eighty_columns(run: QuickstartResult) -> None:
    stream = io.StringIO()
    Console(file=stream, width=80, no_color=True).print(run)
    text = stream.getvalue()
    assert "\u2026" not in text  # rich's sign for something cut off
    assert RIVALS[config_of(run).model] in text
    assert "+ 4:32 + int8" in text


def test_picture_is_drawn_or_its_absence_noted(
    run: QuickstartResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    assert any(path.name == "quickstart.png" for path in run.files)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    tiny = QuickstartConfig(
        seeds=1, epochs=1, width=32, teacher_width=32, rounds=1, out=str(tmp_path)
    )
    without = quickstart(tiny, progress=False)
    assert "pip install 'sparsekd[report]'" in without.notes[0]
    assert [path.name for path in without.files] == ["student.safetensors", "quickstart.json"]


@pytest.mark.parametrize(("name", "layer"), [("mlp", "2"), ("cnn", "body1.conv")])
def test_same_seed_same_models_and_another_seed_others(name: str, layer: str) -> None:
    digits, recipe = digits_of(name), replace(SMALL[name], epochs=2).recipe()

    def trained(seed: int) -> torch.Tensor:
        trainer = Trainer(digits, recipe, seed)
        student = trainer.compressed(trainer.teacher())
        weight: torch.Tensor = student.get_submodule(layer).weight.detach()  # type: ignore[union-attr, operator]
        return weight

    torch.manual_seed(1)
    first = trained(0)
    torch.manual_seed(2)  # the caller's state must not matter
    assert torch.equal(first, trained(0))
    assert not torch.equal(first, trained(1))


def digits_of(name: str) -> Digits:
    return load_digits().as_images() if RECIPES[name].images else load_digits()


@pytest.mark.parametrize("name", list(SMALL))
def test_compressed_student_has_masks_and_fake_quantization_where_it_should(name: str) -> None:
    recipe = replace(SMALL[name], epochs=4).recipe()
    trainer = Trainer(digits_of(name), recipe, 0)
    steps = []
    trainer.on_step = lambda: steps.append(1)
    student = trainer.compressed(recipe.build(recipe.teacher_width))
    assert len(steps) == trainer.steps(4) == 4 * 10
    layers = {n: module for n, module in student.named_modules() if quant_spec(module)}
    assert list(layers) == list(ON_ENGINE[name])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in student.modules())
    pruned = {n: mask for n, layer in layers.items() if (mask := weight_mask(layer)) is not None}
    assert list(pruned) == [n for n, kernel in ON_ENGINE[name].items() if kernel == "windowed"]
    for mask in pruned.values():  # along the channels inside each tap
        kept = mask.movedim(1, -1).unflatten(-1, (-1, min(32, mask.shape[1]))).sum(-1)
        assert (kept == 4 * min(32, mask.shape[1]) // 32).all()
    assert not student.training


def test_a_cnn_is_folded_after_its_statistics_are_known_and_the_pruning_done() -> None:
    """Before that, folding would take the statistics of the start, and pruning would not heal."""
    for epochs in (4, 10, 12, 40):
        recipe = QuickstartConfig("cnn", epochs=epochs).recipe()
        assert 0.7 * recipe.epochs <= recipe.float_epochs < recipe.epochs
    assert QuickstartConfig("cnn", epochs=1).recipe().float_epochs == 0
    assert QuickstartConfig("mlp").recipe().float_epochs == 0


def test_the_float_rows_carry_no_batch_norm() -> None:
    """They are as fast as torch can make them: the same folding as in the engine's row."""
    model = cnn(8).eval()
    model(torch.rand(2, 1, 8, 8))
    x = torch.rand(3, 1, 8, 8)
    before = model(x)
    _fold_norms(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(x), before)


def test_static_int8_is_torchs_and_leaves_the_model_alone() -> None:
    model, x = cnn(16).eval(), torch.rand(64, 1, 8, 8)
    wanted = model(x).detach()
    made = static_int8(model, x)
    kinds = {type(module).__module__ for module in made.modules()}
    assert any("quantized" in kind for kind in kinds)
    error = (made(x) - wanted).norm() / wanted.norm()
    assert 0.0 < error < 0.1
    assert torch.equal(model(x), wanted)


def row(correct_each: tuple[int, ...], images: int, model: str) -> ModelRow:
    return ModelRow(model, "torch", correct_each, images, 1, 1, 1, {"batch 1": Samples((1.0,))})


@pytest.mark.parametrize(
    ("images", "base", "better", "expected"),
    [
        (100, (90, 92, 94), (91, 93, 95), "+1.00 points, spread 4.68: no difference claimed"),
        (100, (50, 50, 50), (55, 55, 55), "+5.00 points, spread 7.05: no difference claimed"),
        (10_000, (9000, 9100), (9500, 9600), "+5.00 points, spread 1.06: outside the spread"),
        (10_000, (9500, 9600), (9000, 9100), "-5.00 points, spread 1.06: outside the spread"),
        (100, (10,), (95,), "+85.00 points; one seed has no spread: no difference claimed"),
    ],
)
def test_no_gain_is_claimed_inside_the_spread(
    images: int, base: tuple[int, ...], better: tuple[int, ...], expected: str
) -> None:
    said = gain(row(better, images, "b"), row(base, images, "a"))
    assert said.removeprefix("b over a").lstrip(": ") == expected


@pytest.mark.parametrize("name", ["seeds", "epochs", "width", "teacher_width", "rounds"])
def test_settings_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        QuickstartConfig(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["four", ""])
def test_unknown_pattern_is_refused_before_training(pattern: str) -> None:
    with pytest.raises(ValueError, match="unknown pattern"):
        QuickstartConfig(pattern=pattern)


def test_unknown_model_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown model 'rnn'; choices are: mlp, cnn"):
        QuickstartConfig("rnn")  # type: ignore[arg-type]
    kind = get_type_hints(QuickstartConfig)["model"]
    assert get_args(kind) == tuple(RECIPES)  # what --help and the command line know


def test_settings_left_out_are_those_of_the_recipe_and_the_help_tells_them() -> None:
    told = QuickstartConfig.__doc__
    assert told is not None
    for name, recipe in RECIPES.items():
        settled = QuickstartConfig(name).settled()  # type: ignore[arg-type]
        for field in ("epochs", "width", "teacher_width", "pattern", "batch_size"):
            value = getattr(recipe, field)
            assert settled[field] == value
            line = re.search(rf"^ +{field}: (.*?)(?=^ +\w+: )", told, flags=re.M | re.S)
            assert line is not None
            assert re.search(rf"{name}(?: and cnn)?: {value}\b", line[1]), (name, field)
    given = QuickstartConfig("cnn", epochs=3, pattern="8:32").settled()
    assert (given["epochs"], given["pattern"], given["width"]) == (3, "8:32", 128)
