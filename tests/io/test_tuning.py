"""Choices of kernels in a file: they survive, are measured again elsewhere, and are checked."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import pytest
import torch
from conftest import File, snapshot
from torch import nn

from sparsekd import backend
from sparsekd.choice import Machine
from sparsekd.convert import convert
from sparsekd.io import FileFormatError, load, save
from sparsekd.prune import prune_
from sparsekd.spec import NM
from sparsekd.tune import tune

ELSEWHERE = "Another CPU, 64 threads, ISA avx2"


def architecture() -> nn.Sequential:
    return nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 32))


@pytest.fixture
def tuned(tmp_path):
    """A model that was measured, and its file: one layer with options, one without."""
    model = architecture().eval()
    prune_(model, NM(8, 32), include="0")
    x = torch.randn(5, 96)
    report = tune(model, x, scheme="int8", break_even=True, seconds=0.1)
    fast = convert(model, kernel=report, scheme="int8")
    save(fast, tmp_path / "f")
    return fast, x, tmp_path / "f"


def carried(path) -> None:
    """Make the file one of another machine."""
    file = File.read(path)
    file.manifest["tuning"] |= {"cpu": "Another CPU", "isa": "avx2", "threads": 64}
    file.write()


def test_choices_and_figures_survive_a_file(tuned, tmp_path):
    fast, x, path = tuned
    loaded = load(path, architecture())
    assert loaded.sparsekd_report.tuning == fast.sparsekd_report.tuning
    assert loaded.sparsekd_report["0"].reason == fast.sparsekd_report["0"].reason
    assert loaded.sparsekd_report.notes == ()
    assert torch.equal(loaded(x), fast(x))
    save(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_model_that_was_not_measured_says_so_in_its_file(tmp_path):
    save(convert(architecture(), scheme="int8"), tmp_path / "f")
    assert File.read(tmp_path / "f").manifest["tuning"] is None
    loaded = load(tmp_path / "f", architecture())
    assert loaded.sparsekd_report.tuning is None
    assert loaded.sparsekd_report["0"].reason == "as in the file"


def test_choices_that_no_longer_hold_are_left_out_of_the_file(tuned, tmp_path):
    fast, _, _ = tuned
    fast[2] = fast[2].repacked("windowed")
    save(fast, tmp_path / "g")
    assert list(File.read(tmp_path / "g").manifest["tuning"]["layers"]) == ["0"]


def test_on_another_machine_choices_are_kept_with_a_warning(tuned):
    fast, x, path = tuned
    carried(path)
    wanted = rf"another processor and instruction set and number of threads \({ELSEWHERE}; this is"
    with pytest.warns(UserWarning, match=wanted):
        loaded = load(path, architecture())
    assert ELSEWHERE in loaded.sparsekd_report.notes[-1]
    assert loaded[0].kernel == fast[0].kernel
    assert torch.equal(loaded(x), fast(x))


def test_on_another_machine_choices_are_measured_again_on_example_inputs(tuned):
    fast, x, path = tuned
    carried(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load(path, architecture(), example_inputs=x)
    tuning = loaded.sparsekd_report.tuning
    assert tuning.machine == Machine.here()
    assert {f.kernel for f in tuning["0"].figures} == {"windowed", "dense"}
    assert loaded[0].kernel == tuning["0"].kernel
    assert torch.equal(loaded(x), fast(x))


def test_on_another_instruction_set_choices_are_measured_again(tuned):
    fast, x, path = tuned
    backend.set_isa("scalar")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load(path, architecture(), example_inputs=x)
    tuning = loaded.sparsekd_report.tuning
    assert tuning.machine.isa == "scalar" != fast.sparsekd_report.tuning.machine.isa
    assert tuning["0"].figures != fast.sparsekd_report.tuning["0"].figures
    assert loaded[0].kernel == tuning["0"].kernel
    assert torch.equal(loaded(x), fast(x))


@pytest.mark.parametrize("change", ["threads", "isa"])
def test_other_threads_or_instructions_are_another_machine(tuned, change):
    _, _, path = tuned
    if change == "threads":
        torch.set_num_threads(torch.get_num_threads() + 1)
        words = "number of threads"
    else:
        backend.set_isa("scalar")
        words = "instruction set"
    with pytest.warns(UserWarning, match=f"another {words} "):
        load(path, architecture())


def test_on_the_same_machine_nothing_is_measured_again(tuned):
    fast, x, path = tuned
    loaded = load(path, architecture(), example_inputs=x)
    assert loaded.sparsekd_report.tuning == fast.sparsekd_report.tuning


def test_a_lone_layer_is_measured_again(tmp_path):
    layer, x = nn.Linear(64, 32), torch.randn(3, 64)
    prune_(layer, NM(8, 32))
    fast = convert(layer, scheme="int8", kernel="windowed")
    save(fast, tmp_path / "f")
    loaded = load(tmp_path / "f", nn.Linear(64, 32), example_inputs=x)
    assert loaded.sparsekd_report.tuning[""].kernel == loaded.kernel
    assert torch.equal(loaded(x), fast(x))


def drop(*path):
    def change(tuning):
        *parents, key = path
        for parent in parents:
            tuning = tuning[parent]
        del tuning[key]

    return change


def put(value, *path):
    def change(tuning):
        *parents, key = path
        for parent in parents:
            tuning = tuning[parent]
        tuning[key] = value

    return change


FIGURE = ("layers", "0", "figures", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("cpu"), "'tuning.cpu'"),
        (put(1, "more"), "'tuning.more'"),
        (put("two\nlines", "cpu"), "'tuning.cpu'"),
        (put(0, "threads"), "'tuning.threads'"),
        (put("fp16", "layers", "0", "scheme"), "'tuning.layers.0.scheme'"),
        (put("magic", *FIGURE, "kernel"), "'tuning.layers.0.figures.0.kernel'"),
        (put(-1.0, *FIGURE, "median_s"), "'tuning.layers.0.figures.0.median_s'"),
        (put("1", *FIGURE, "p10_s"), "'tuning.layers.0.figures.0.p10_s'"),
        (put([-3], "layers", "0", "calls", 0, "shape"), "'tuning.layers.0.calls.0.shape.0'"),
        (put(2.0, "layers", "0", "break_even", "sparsity"), "break_even.sparsity'"),
        (put("csr", "layers", "0", "kernel"), "layer '0' has kernel .*, chosen for it was 'csr'"),
        (put("torch", "layers", "2", "kernel"), "'dense', chosen for it was 'torch'"),
        (lambda t: t["layers"].update({"9": {**t["layers"]["2"], "kernel": "torch"}}), "names '9'"),
        (lambda t: t["layers"].update({"1": t["layers"]["2"]}), "layer '1' has kernel 'torch'"),
    ],
)
def test_a_malformed_record_is_refused_and_changes_nothing(tuned, change, message):
    _, _, path = tuned
    file = File.read(path)
    change(file.manifest["tuning"])
    file.write()
    model = architecture()
    before = snapshot(model)
    with pytest.raises(FileFormatError, match=message):
        load(path, model)
    assert snapshot(model) == before


def test_a_mask_that_does_not_fit_its_layer_is_refused(tmp_path):
    model = architecture()
    prune_(model, NM(8, 32), include="0")
    save(model, tmp_path / "f")
    loaded = load(tmp_path / "f", architecture())
    assert torch.equal(loaded[0].weight_mask, model[0].weight_mask)
    file = File.read(tmp_path / "f")
    file.put("0.weight_mask", file.array("2.bias")[:1])
    file.write()
    with pytest.raises(FileFormatError, match=re.escape("'0.weight_mask' is torch.float32 (1,)")):
        load(tmp_path / "f", architecture())


def test_machines_differ_by_what_times_depend_on():
    here = Machine("A", "avx2", 2)
    assert here.unlike(Machine("A", "avx2", 2)) == ""
    assert here.unlike(replace(here, cpu="B", threads=1)) == "processor and number of threads"
