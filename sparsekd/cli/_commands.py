"""The commands. Each is one library call: its dataclass is the flags, the YAML file and the call's
argument at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from sparsekd.bench import (
    ConvBenchConfig,
    LinearBenchConfig,
    ModelBenchConfig,
    bench_conv,
    bench_linear,
    bench_model,
)
from sparsekd.doctor import diagnose
from sparsekd.quickstart import QuickstartConfig, quickstart
from sparsekd.report import show

__all__ = ["COMMANDS", "GROUPS", "Command"]

T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """A command line command.

    Attributes:
        words: how it is called, behind ``sparsekd``.
        run: takes the parsed arguments, returns the exit status.
    """

    words: tuple[str, ...]
    description: str
    examples: tuple[str, ...]
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Any], int]


def _flags_of(config: type) -> Callable[[ArgumentParser], None]:
    """A flag for each field of a dataclass, and a YAML file for all of them."""

    def add(parser: ArgumentParser) -> None:
        parser.add_class_arguments(config)
        parser.add_argument("--config", action="config", help="YAML file with these settings.")

    return add


def _filled(config: type[T], arguments: Any) -> T:
    names = [entry.name for entry in fields(config)]  # type: ignore[arg-type]
    return config(**{name: arguments[name] for name in names})


def _run_quickstart(arguments: Any) -> int:
    result = quickstart(_filled(QuickstartConfig, arguments))
    show(result)
    return 0 if result.verified else 1


def _run_bench_linear(arguments: Any) -> int:
    show(bench_linear(_filled(LinearBenchConfig, arguments)))
    return 0


def _run_bench_conv(arguments: Any) -> int:
    show(bench_conv(_filled(ConvBenchConfig, arguments)))
    return 0


def _bench_model_arguments(parser: ArgumentParser) -> None:
    _flags_of(ModelBenchConfig)(parser)
    parser.add_argument("names", nargs="?", help="The same as --models, and before it.")


def _run_bench_model(arguments: Any) -> int:
    arguments.models = arguments.names or arguments.models
    result = bench_model(_filled(ModelBenchConfig, arguments))
    show(result)
    return 0 if result.verified else 1


def _doctor_arguments(parser: ArgumentParser) -> None:
    parser.add_function_arguments(diagnose)
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")


def _run_doctor(arguments: Any) -> int:
    found = diagnose(arguments.problems, arguments.timeout_s)
    print(found.to_json() if arguments.json else found)
    return 0 if found.ok else 1


GROUPS = {"bench": "Measure the engine beside others."}

COMMANDS = (
    Command(
        ("quickstart",),
        "Distill, prune, quantize, convert, verify and measure a classifier of real digits.",
        (
            "sparsekd quickstart                        all of it, in two minutes on two cores",
            "sparsekd quickstart --model cnn --out cnn  the same with convolutions and BatchNorm",
            "sparsekd quickstart --seed 7 --out run7    other numbers, another folder",
            "sparsekd quickstart --seeds 1 --epochs 4   a quick look",
        ),
        _flags_of(QuickstartConfig),
        _run_quickstart,
    ),
    Command(
        ("bench", "linear"),
        "Time Linear layers: ours in every format beside torch, ONNX Runtime and OpenVINO.",
        (
            "sparsekd bench linear                              a quick look, in a minute",
            "sparsekd bench linear --preset full                everything, resumed if interrupted",
            "sparsekd bench linear --shapes 768x3072 --rows 128 --sparsity 0.75,0.875",
            "sparsekd bench linear --formats fp32-n16,csr --threads 2,1",
            "sparsekd bench linear --config bench.yaml          the same settings from a file",
        ),
        _flags_of(LinearBenchConfig),
        _run_bench_linear,
    ),
    Command(
        ("bench", "conv"),
        "Time the convolutions of networks: ours, u8 to u8 and fp32, beside the others'.",
        (
            "sparsekd bench conv                        in the source tree, where bench/models is",
            "sparsekd bench conv --models resnet50 --layers '3x3*' --batches 1",
            "sparsekd bench conv --formats dense,int8 --sparsity 0.75 --threads 2,1",
        ),
        _flags_of(ConvBenchConfig),
        _run_bench_conv,
    ),
    Command(
        ("bench", "model"),
        "Time whole models, verified first: resnet18, resnet50, mobilenetv2, minilm.",
        (
            "sparsekd bench model resnet50              in the source tree, where bench/models is",
            "sparsekd bench model minilm --sparsity 0.5 --threads 1",
            "sparsekd bench model resnet18,minilm --peers false --rounds 3    a quick look",
        ),
        _bench_model_arguments,
        _run_bench_model,
    ),
    Command(
        ("doctor",),
        "Check this installation: versions, instruction sets, OpenMP, and a self-test of each ISA.",
        (
            "sparsekd doctor                      exit status 1 when something is wrong",
            "sparsekd doctor --json               the same for programs",
            "sparsekd doctor --problems 20000     a long self-test",
        ),
        _doctor_arguments,
        _run_doctor,
    ),
)
