"""The quickstart keeps its promises on a small budget; accuracy and speed are for the real run."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

import sparsekd as skd
from sparsekd.benchmark import Samples
from sparsekd.modules import quant_spec, weight_mask
from sparsekd.quickstart import ModelRow, QuickstartConfig, QuickstartResult, quickstart
from sparsekd.quickstart.data import load_digits
from sparsekd.quickstart.recipe import Trainer, correct, mlp
from sparsekd.quickstart.result import gain
from sparsekd.report import show

SMALL = QuickstartConfig(seeds=2, epochs=10, hidden=64, teacher_hidden=96, rounds=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> QuickstartResult:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    result = quickstart(replace(SMALL, out=str(tmp_path_factory.mktemp("out"))), progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    return result


def test_each_verification_passes_exactly(run: QuickstartResult) -> None:
    assert list(run.checks) == ["seed 0", "seed 1", "saved and loaded"]
    assert run.verified
    for check in run.checks.values():
        assert len(check["layers"]) == 3
        assert {layer["rule"] for layer in check["layers"]} == {"exact"}
        assert check["output"]["max_abs"] == 0.0


def test_rows_are_the_models_and_runtimes_that_are_promised(run: QuickstartResult) -> None:
    assert [(row.model, row.runtime) for row in run.rows] == [
        ("teacher", "torch fp32"),
        ("labels only", "torch fp32"),
        ("distilled", "torch fp32"),
        ("distilled", "torch dynamic int8"),
        ("distilled + 4:32 + int8", "sparsekd"),
    ]
    assert run.rows[run.reference].name == "distilled, torch fp32"
    for row in run.rows:
        assert list(row.latency) == ["batch 1", "batch 32", "batch 256"]
        assert len(row.correct) == 2
        assert row.accuracy > 0.5  # it learns: chance is 0.1


def test_sizes_are_those_of_the_files(run: QuickstartResult) -> None:
    student, engine = run.rows[run.reference], run.rows[-1]
    total = 64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10
    assert student.kept == student.parameters == engine.parameters == total
    assert engine.kept == total - 64 * 64 * 28 // 32
    saved = next(path for path in run.files if path.name == "student.safetensors")
    assert engine.file_bytes == saved.stat().st_size
    assert 4 * total < student.file_bytes < 4 * total + 5000


def test_saved_file_is_the_engine_row(run: QuickstartResult) -> None:
    path = next(path for path in run.files if path.name == "student.safetensors")
    with torch.device("meta"):
        empty = mlp(SMALL.hidden)
    model = skd.load(path, empty)
    digits = load_digits()
    assert correct(model, digits.test_images, digits.test_labels) == run.rows[-1].correct[0]
    assert "windowed" in run.conversion
    assert "dense" in run.conversion


def test_json_holds_every_figure(run: QuickstartResult) -> None:
    path = next(path for path in run.files if path.suffix == ".json")
    read = json.loads(path.read_text())
    assert read["settings"]["epochs"] == 10
    assert read["environment"]["isa"] == skd.backend.isa()
    assert read["verified"] is True
    assert len(read["gains"]) == 2
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
    assert "torch dynamic int8" in text
    assert "+ 4:32 + int8" in text


def test_picture_is_drawn_or_its_absence_noted(
    run: QuickstartResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    assert any(path.name == "quickstart.png" for path in run.files)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    tiny = QuickstartConfig(
        seeds=1, epochs=1, hidden=32, teacher_hidden=32, rounds=1, out=str(tmp_path)
    )
    without = quickstart(tiny, progress=False)
    assert "pip install 'sparsekd[report]'" in without.notes[0]
    assert [path.name for path in without.files] == ["student.safetensors", "quickstart.json"]


def test_same_seed_same_models_and_another_seed_others() -> None:
    digits = load_digits()
    small = replace(SMALL, epochs=2)

    def trained(seed: int) -> torch.Tensor:
        trainer = Trainer(digits, small, seed)
        return trainer.compressed(trainer.teacher())[2].weight.detach()  # type: ignore[index]

    torch.manual_seed(1)
    first = trained(0)
    torch.manual_seed(2)  # the caller's state must not matter
    assert torch.equal(first, trained(0))
    assert not torch.equal(first, trained(1))


def test_compressed_student_has_masks_and_fake_quantization_where_it_should() -> None:
    trainer = Trainer(load_digits(), replace(SMALL, epochs=2), 0)
    steps = []
    trainer.on_step = lambda: steps.append(1)
    student = trainer.compressed(mlp(SMALL.teacher_hidden))
    assert len(steps) == trainer.steps(2) == 2 * 10
    layers = {name: module for name, module in student.named_modules() if quant_spec(module)}
    assert list(layers) == ["0", "2", "4"]
    mask = weight_mask(layers["2"])
    assert mask is not None
    assert (mask.view(64, 2, 32).sum(-1) == 4).all()
    assert weight_mask(layers["0"]) is None
    assert not student.training


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


@pytest.mark.parametrize("name", ["seeds", "epochs", "hidden", "teacher_hidden", "rounds"])
def test_settings_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        QuickstartConfig(**{name: 0})  # type: ignore[arg-type]


def test_unknown_pattern_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="unknown pattern"):
        QuickstartConfig(pattern="four")
