"""The command line: thin, one-line errors, exit codes, help that teaches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sparsekd.bench import ConvBenchConfig, LinearBenchConfig, ModelBenchConfig
from sparsekd.cli import _commands, main
from sparsekd.doctor import Check, Diagnosis
from sparsekd.quickstart import QuickstartConfig

WORDS = [" ".join(command.words) for command in _commands.COMMANDS]
CONFIGS: dict[str, Any] = {
    "quickstart": QuickstartConfig,
    "bench linear": LinearBenchConfig,
    "bench conv": ConvBenchConfig,
    "bench model": ModelBenchConfig,
}
Config = QuickstartConfig | LinearBenchConfig | ConvBenchConfig | ModelBenchConfig


class ReachedError(Exception):
    """Raised in place of a library call, with its argument."""


def argument_of(monkeypatch: pytest.MonkeyPatch, function: str, words: list[str]) -> Config:
    """What the command hands to the library call."""

    def stop(config: Any) -> None:
        raise ReachedError(config)

    monkeypatch.setattr(_commands, function, stop)
    with pytest.raises(ReachedError) as caught:
        main(words)
    config: Config = caught.value.args[0]
    return config


def test_commands_are_those_that_exist() -> None:
    assert WORDS == ["quickstart", "bench linear", "bench conv", "bench model", "doctor"]


@pytest.mark.parametrize("words", WORDS)
def test_help_teaches_with_examples(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:\n  sparsekd " + words in text
    for entry in fields(CONFIGS[words]) if words in CONFIGS else ():
        assert f"--{entry.name}" in text


def test_top_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(words.split()[0] in text for words in WORDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sparsekd ")


def test_defaults_are_those_of_the_dataclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert argument_of(monkeypatch, "quickstart", ["quickstart"]) == QuickstartConfig()
    cnn = argument_of(monkeypatch, "quickstart", ["quickstart", "--model", "cnn", "--epochs", "3"])
    assert cnn == QuickstartConfig("cnn", epochs=3)
    assert argument_of(monkeypatch, "bench_linear", ["bench", "linear"]) == LinearBenchConfig()
    assert argument_of(monkeypatch, "bench_conv", ["bench", "conv"]) == ConvBenchConfig()
    assert argument_of(monkeypatch, "bench_model", ["bench", "model"]) == ModelBenchConfig()


def test_models_are_named_without_a_flag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["bench", "model", "resnet50,minilm", "--threads", "1", "--peers", "false"]
    expected = ModelBenchConfig(models="resnet50,minilm", threads=1, peers=False)
    assert argument_of(monkeypatch, "bench_model", words) == expected
    file = tmp_path / "bench.yaml"
    file.write_text("models: resnet50\nrounds: 3\n")
    read = argument_of(monkeypatch, "bench_model", ["bench", "model", "--config", str(file)])
    assert read == ModelBenchConfig(models="resnet50", rounds=3)


def test_flags_and_yaml_fill_the_same_dataclass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flags = ["--shapes", "8x16,4x4", "--rows", "1,2", "--sparsity", "0.5", "--threads", "3"]
    got = argument_of(monkeypatch, "bench_linear", ["bench", "linear", *flags])
    assert got == LinearBenchConfig(shapes="8x16,4x4", rows="1,2", sparsity=0.5, threads=3)
    file = tmp_path / "bench.yaml"
    file.write_text("shapes: [8x16, 4x4]\nrows: [1, 2]\nsparsity: [0.5]\n")
    words = ["bench", "linear", "--config", str(file), "--threads", "3"]
    read = argument_of(monkeypatch, "bench_linear", words)
    assert isinstance(read, LinearBenchConfig)
    assert isinstance(got, LinearBenchConfig)
    assert read.parts() == got.parts()
    assert read.threads == got.threads


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], 'expected "command" to be one of'),
        (["nope"], "invalid choice: 'nope'"),
        (["bench"], "to be one of {linear,conv,model}"),
        (["quickstart", "--nope", "1"], "unrecognized arguments: --nope 1"),
        (["quickstart", "--seeds", "x"], "Got value: x (see sparsekd quickstart --help)"),
        (["bench", "linear", "--rounds", "two"], "Got value: two"),
        (["quickstart", "--model", "rnn"], "['mlp', 'cnn']. Got value: rnn"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quickstart", "--seeds", "0"], "seeds must be at least 1, got 0"),
        (["quickstart", "--pattern", "9:8"], "1 <= n <= m"),
        (["bench", "linear", "--shapes", "3"], "a shape is <in>x<out>"),
        (["bench", "model", "--rounds", "0"], "rounds >= 1"),
        (["bench", "model", "--definitions", "nowhere"], "no model definitions in 'nowhere'"),
        (["doctor", "--problems", "0"], "problems >= 1"),
    ],
)
def test_bad_values_are_one_line_and_status_1(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("sparsekd: error: ")
    assert said.count("\n") == 1
    assert message in said


def test_an_unwritable_folder_is_an_error_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    target = str(tmp_path / "file" / "out")
    assert main(["quickstart", "--out", target]) == 1
    assert main(["bench", "linear", "--out", target]) == 1
    assert capsys.readouterr().err.count("sparsekd: error: ") == 2


def test_an_interrupt_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_commands, "quickstart", interrupt)
    assert main(["quickstart"]) == 130
    assert capsys.readouterr().err == "sparsekd: interrupted\n"


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: object) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(_commands, "quickstart", broken)
    with pytest.raises(TypeError, match="a defect"):
        main(["quickstart"])


@pytest.mark.parametrize("ok", [True, False])
def test_doctor_passes_its_arguments_and_its_verdict(
    ok: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, float]] = []

    def diagnosis(problems: int = 1, timeout_s: float = 1.0) -> Diagnosis:
        asked.append((problems, timeout_s))
        return Diagnosis({"versions": {}}, {}, (Check("a check", ok, "b"),))

    monkeypatch.setattr(_commands, "diagnose", diagnosis)
    words = ["doctor", "--problems", "3", "--timeout_s", "9"]
    assert main(words) == (0 if ok else 1)
    assert "a check" in capsys.readouterr().out
    assert main([*words, "--json"]) == (0 if ok else 1)
    assert json.loads(capsys.readouterr().out)["ok"] is ok
    assert asked == [(3, 9.0), (3, 9.0)]


def test_module_and_script_are_the_same_program() -> None:
    clean = {key: value for key, value in os.environ.items() if key != "SPARSEKD_ISA"}
    done = subprocess.run(
        [sys.executable, "-m", "sparsekd", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=clean,
    )
    assert done.stdout.startswith("sparsekd ")
