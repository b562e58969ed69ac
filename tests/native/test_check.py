"""The differential engine (csrc/check) as installed: it passes, covers every ISA, and bites."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from sparsekd import backend

LINE = re.compile(r"^FAIL: skd-check (--isa \S+ --seed \d+ --only \d+(?: --mutant \w+)?)  # (.+)$")
OPERATIONS = 32
#: Kernels that are called directly, and mistakes in them that the direct calls must find.
DIRECT = {
    "tile_depthwise_s8": ["depthwise_over_read", "depthwise_first_sums"],
    "tile_depthwise_f32": ["depthwise_over_read_f32", "last_tap_lost"],
    "tile_csr_f32": ["csr_short_run", "csr_restarts", "csr_over_read"],
    "epilogue_sums": ["sums_over_write", "sums_skip_last_column", "sums_late_bias"],
    "transpose_f32": ["transpose_over_read", "transpose_no_fill"],
    "to_bf16": ["truncating_bf16", "bf16_half_up", "bf16_nan_rounded", "bf16_keeps_subnormals"],
    "absolute_maximum": ["maximum_loses_nan"],
}


def check(*options: str) -> subprocess.CompletedProcess[str]:
    """Runs skd-check; its output is the pass marks of every operation, or one line of failure."""
    command = [str(backend.check_binary()), *options]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # other tests share the cores
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=900, env=environment
    )


def listed(kind: str) -> list[str]:
    """What `skd-check --list` says of one kind: "mutant", "available isa", "operation"."""
    lines = check("--list").stdout.splitlines()
    return [line.split(": ")[1] for line in lines if line.startswith(f"{kind}: ")]


def test_twenty_thousand_problems_on_every_isa() -> None:
    done = check("--problems", "20000")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    isas = backend.available_isas()
    assert done.stdout.splitlines()[-1] == f"passed: 20000 problems on {', '.join(isas)}"
    ran = re.findall(r"^  (\w+) +(\d+) problems, +(\d+) telling", done.stdout, re.MULTILINE)
    operations = listed("operation")
    assert len(operations) >= OPERATIONS
    assert [name for name, _, _ in ran] == operations * len(isas)
    assert all(int(problems) > 0 for _, problems, _ in ran)


@pytest.mark.parametrize("isa", backend.available_isas())
def test_one_isa_alone(isa: str) -> None:
    done = check("--isa", isa, "--problems", "300", "--seed", "77")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == f"passed: 300 problems on {isa}"


def test_list_agrees_with_the_extension() -> None:
    assert listed("available isa") == list(backend.available_isas())
    assert listed("known isa") == list(backend.known_isas())
    assert {"over_read", "no_weight_sum", "skip_last_output"} <= set(listed("mutant"))


@pytest.mark.parametrize("isa", ["scalar", backend.available_isas()[0]])
@pytest.mark.parametrize("mutant", listed("mutant"))
def test_every_mutant_is_found_and_its_line_repeats_it(mutant: str, isa: str) -> None:
    done = check("--isa", isa, "--problems", "4000", "--mutant", mutant)
    assert done.returncode == 1
    *_, last = done.stdout.splitlines()
    match = LINE.match(last)
    assert match, done.stdout
    again = check(*match[1].split())
    assert again.returncode == 1
    # The same problem; what it found may be a byte that nobody wrote.
    [line] = again.stdout.splitlines()
    assert line.split(": ")[:2] == last.split(": ")[:2]
    # Without its mistake the same problem passes.
    unbroken = check(*match[1].split(" --mutant ")[0].split())
    assert unbroken.returncode == 0, unbroken.stdout


@pytest.mark.parametrize("isa", backend.available_isas())
@pytest.mark.parametrize("operation", DIRECT)
def test_direct_calls_find_the_mistakes_of_their_kernel(operation: str, isa: str) -> None:
    options = ["--isa", isa, "--problems", "9000", "--op", operation]
    assert check(*options).returncode == 0
    for mutant in DIRECT[operation]:
        *_, last = check(*options, "--mutant", mutant).stdout.splitlines()
        match = LINE.match(last)
        assert match, f"{mutant}: {last}"
        assert match[2].startswith(f"{operation} ")


@pytest.mark.parametrize("isa", backend.available_isas())
@pytest.mark.parametrize("mutant", ["wrong_border", "swapped_taps", "last_tap_lost"])
def test_convolutions_find_what_only_convolutions_can(mutant: str, isa: str) -> None:
    operations = [name for name in listed("operation") if name.startswith("conv_")]
    found = 0
    for operation in operations:
        options = ["--isa", isa, "--problems", "4000", "--op", operation, "--mutant", mutant]
        *_, last = check(*options).stdout.splitlines()
        match = LINE.match(last)
        found += match is not None and match[2].startswith(operation)
    assert found >= (1 if mutant == "last_tap_lost" else 3)


@pytest.mark.parametrize(
    ("mutant", "words"),
    [
        ("over_read", "SIGSEGV: 1 bytes past the end of a row of u"),
        ("under_read", "SIGSEGV: 1 bytes before the start of a row of u"),
        ("over_write", "SIGSEGV: 1 bytes past the end of y"),
        ("leaves_flush_on", "the floating-point control word was changed"),
    ],
)
def test_a_failure_says_what_happened(mutant: str, words: str) -> None:
    # A mistake may show in another way first: flushing in a layer's next tile, for one.
    seeds = ("1", "2", "3", "4")
    lasts = [check("--mutant", mutant, "--seed", s).stdout.splitlines()[-1] for s in seeds]
    assert any(last.endswith(words) for last in lasts), lasts


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--isa", "sse9"], "unknown instruction set 'sse9'; known: "),
        (["--mutant", "sleepy"], "unknown mutant 'sleepy'; known: over_read, "),
        (["--op", "conv"], "unknown operation 'conv'; --list prints those there are"),
        (["--problems", "many"], "--problems: 'many', expected a whole number"),
        (["--problems"], "option '--problems' is unknown or lacks its value"),
        (["--speed", "1"], "unknown option '--speed'"),
    ],
)
def test_wrong_usage_is_refused_in_a_sentence(options: list[str], words: str) -> None:
    done = check(*options)
    assert done.returncode == 2
    assert words in done.stderr
