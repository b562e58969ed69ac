"""What an import costs, counted in modules; and the training side without the compiled part."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

HEAVY = {
    "jsonargparse",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "pandas",
    "pydantic",
    "rich",
    "safetensors",
    "sklearn",
    "tensorboard",
    "tqdm",
    "yaml",
    "sparsekd._native",
    "torch._dynamo",
    "torch._inductor",
    "torch.fx.experimental.symbolic_shapes",
}

# torch is imported once; each statement runs in a fork of that process.
DRIVER = """
import io, json, os, sys, traceback
from contextlib import redirect_stdout

import torch

class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "sparsekd._native":
            raise ImportError("it is blocked here")

def child(statement, blocked):
    if blocked:
        sys.meta_path.insert(0, Block())
    before, told, error = set(sys.modules), io.StringIO(), ""
    try:
        with redirect_stdout(told):
            exec(statement, {})
    except BaseException:
        error = traceback.format_exc()
    return {"loaded": sorted(set(sys.modules) - before), "told": told.getvalue(), "error": error}

for statement, blocked in json.load(sys.stdin):
    sys.stdout.flush()
    if (process := os.fork()) == 0:
        print(json.dumps(child(statement, blocked)), flush=True)
        os._exit(0)
    os.waitpid(process, 0)
"""


def run(*statements: str, blocked: bool = False) -> list[dict[str, Any]]:
    """For each statement: the modules that it loads beyond torch's, what it prints, its error."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRIVER],
        input=json.dumps([(statement, blocked) for statement in statements]),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == len(statements), result.stderr[-3000:]
    for statement, line in zip(statements, lines, strict=True):
        assert not line["error"], f"{statement}\n{line['error']}"
    return lines


def test_what_imports_load() -> None:
    package, training, engine = (
        set(line["loaded"])
        for line in run(
            "import sparsekd",
            "from sparsekd import distill, prune, quantize, spec, numerics, modules",
            "from sparsekd import backend, nn; backend.require()",
        )
    )
    assert {name for name in package if name.startswith("sparsekd")} == {"sparsekd"}
    assert not package & HEAVY
    assert not training & HEAVY
    above = {"backend", "ops", "nn", "convert", "io", "verify"}
    assert not {name for name in training if name.removeprefix("sparsekd.").split(".")[0] in above}
    assert engine & HEAVY == {"sparsekd._native"}


TRAIN_AND_FAIL = """
import torch
import sparsekd as skd
from sparsekd import distill, prune, quantize, spec

model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
teacher = torch.nn.Sequential(torch.nn.Linear(64, 2)).eval()
skd.prune.prune_(model, skd.prune.NM(4, 32))
skd.quantize.prepare_(model, skd.quantize.Int8("static"))
skd.quantize.calibrate(model, [torch.randn(5, 64)])
model.train()(torch.randn(5, 64)).sum().backward()
assert model.eval()(torch.randn(5, 64)).shape == (5, 2)

def first_uses():
    yield skd.backend.isa
    yield skd.backend.require
    yield skd.backend.available_isas
    yield skd.backend.check_binary
    yield lambda: skd.nn.Linear(3, 2)
    yield lambda: skd.convert(model)

for use in first_uses():
    try:
        use()
    except skd.backend.NativeMissingError as error:
        assert isinstance(error, ImportError)
        print(error)
    else:
        raise AssertionError(use)
"""


def test_without_the_compiled_part_training_works_and_the_engine_says_what_to_do() -> None:
    names = ["save", "load", "verify", "benchmark", "to_float", "nn", "backend"]
    looked_up = [f"import sparsekd; sparsekd.{name}" for name in names]
    told = run(TRAIN_AND_FAIL, *looked_up, blocked=True)[0]["told"].splitlines()
    assert len(told) == 6
    assert len(set(told)) == 1
    assert "it is blocked here" in told[0]  # the reason
    assert "pip install ." in told[0]  # the remedy
    assert "distill, prune and quantize work without it" in told[0]
