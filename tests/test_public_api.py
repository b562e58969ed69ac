"""The names that others build on, and how they are called."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any

import pytest

import sparsekd as skd

FUNCTIONS = {
    "benchmark": "sparsekd.benchmark",
    "convert": "sparsekd.convert",
    "load": "sparsekd.io",
    "save": "sparsekd.io",
    "to_float": "sparsekd.convert",
    "tune": "sparsekd.tune",
    "verify": "sparsekd.verify",
}
MODULES = ("backend", "distill", "nn", "prune", "quantize")

# What each public module must offer; it may offer more.
MEMBERS = {
    "backend": {"available_isas", "isa", "set_isa"},
    "distill": {"Distiller", "SoftTarget"},
    "nn": {"Linear"},
    "prune": {"NM", "Pruner", "Unstructured", "prune_", "snap_"},
    "quantize": {"Int8", "calibrate", "prepare_"},
}

REQUIRED, ANY = object(), object()

# Parameters that the documents promise, in order: name -> default, and those that are keywords.
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "convert": (
        {"model": REQUIRED, "example_inputs": None},
        {"scheme": "auto", "kernel": "auto", "inplace": False},
    ),
    "tune": (
        {"model": REQUIRED, "example_inputs": REQUIRED},
        {"scheme": "auto", "allow_float": False, "break_even": False},
    ),
    "verify": ({"converted": REQUIRED, "reference": REQUIRED, "inputs": REQUIRED}, {}),
    "save": ({"model": REQUIRED, "path": REQUIRED}, {}),
    "load": ({"path": REQUIRED, "model": REQUIRED}, {}),
    "to_float": ({"model": REQUIRED}, {}),
    "benchmark": ({"models": REQUIRED, "inputs": REQUIRED}, {}),
    "prune.NM": ({"n": REQUIRED, "m": 32}, {}),
    "prune.Unstructured": ({"sparsity": REQUIRED}, {}),
    "prune.prune_": ({"model": REQUIRED, "pattern": REQUIRED}, {}),
    "prune.snap_": ({"model": REQUIRED, "pattern": "auto"}, {}),
    "prune.Pruner": ({"model": REQUIRED, "pattern": REQUIRED}, {}),
    "quantize.prepare_": ({"model": REQUIRED, "scheme": ANY}, {}),
    "quantize.calibrate": ({"model": REQUIRED, "data": REQUIRED}, {}),
    "distill.Distiller": ({"student": REQUIRED, "teacher": REQUIRED, "losses": ANY}, {}),
    "backend.isa": ({}, {}),
    "backend.available_isas": ({}, {}),
    "backend.set_isa": ({"name": REQUIRED}, {}),
}


def test_exactly_these_names() -> None:
    names = sorted(["__version__", *FUNCTIONS, *MODULES])
    assert sorted(skd.__all__) == names
    assert sorted(dir(skd)) == names


def test_each_name_is_what_its_home_holds() -> None:
    for name, home in FUNCTIONS.items():
        assert getattr(skd, name) is vars(sys.modules[home])[name]
        assert callable(getattr(skd, name))
    for name in MODULES:
        assert getattr(skd, name) is sys.modules[f"sparsekd.{name}"]


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from sparsekd import *", names)
    assert set(skd.__all__) <= set(names)


def test_version() -> None:
    assert skd.__version__ == version("sparsekd")


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'sparsekd' has no attribute 'quantise'"):
        skd.quantise  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'quantise'"):
        exec("from sparsekd import quantise")


@pytest.mark.parametrize("module", MEMBERS)
def test_members_of_the_modules(module: str) -> None:
    found = importlib.import_module(f"sparsekd.{module}")
    assert MEMBERS[module] <= set(found.__all__)
    for name in found.__all__:
        member = getattr(found, name)
        assert not isinstance(member, ModuleType), f"{module}.{name}"
        if inspect.isclass(member) or inspect.isfunction(member):
            assert inspect.getdoc(member), f"sparsekd.{module}.{name} has no docstring"


def test_every_public_function_is_documented() -> None:
    for name in FUNCTIONS:
        assert ">>>" in (inspect.getdoc(getattr(skd, name)) or ""), f"{name} lacks an example"


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    """Positional parameters in this order; more may follow, if they have defaults."""
    target: Any = skd
    for part in name.split("."):
        target = getattr(target, part)
    parameters = inspect.signature(target).parameters
    positional, keywords = CALLS[name]
    for (given, parameter), (wanted, default) in zip(
        parameters.items(), positional.items(), strict=False
    ):
        assert given == wanted
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if default is not ANY:
            assert parameter.default == (parameter.empty if default is REQUIRED else default)
    assert len(parameters) >= len(positional)
    for wanted, default in keywords.items():
        assert parameters[wanted].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[wanted].default == default
    for extra in set(parameters) - set(positional) - set(keywords):
        parameter = parameters[extra]
        variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        assert variable or parameter.default is not parameter.empty, f"{name} requires {extra}"


def test_shared_types_are_one() -> None:
    from sparsekd import spec

    assert skd.prune.NM is spec.NM
    assert skd.prune.Unstructured is spec.Unstructured
    assert skd.quantize.Int8 is spec.Int8


def test_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    """In whatever order the package is first used."""
    program = "import os, sys\nimport sparsekd as skd\n"
    for first in ("convert", "verify", "benchmark", "io"):
        use = f"import sparsekd.{first}" if first == "io" else f"skd.{first}"
        imports = "import sparsekd.convert, sparsekd.verify, sparsekd.benchmark, sparsekd.io"
        program += f"if os.fork() == 0:\n  {use}; {imports}\n"
        program += (
            f"  os._exit(0 if all(callable(getattr(skd, n)) for n in {list(FUNCTIONS)}) else 1)\n"
        )
        program += f"if os.wait()[1] != 0: sys.exit('{first} first')\n"
    result = subprocess.run(
        [sys.executable, "-c", "import torch\n" + program],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
