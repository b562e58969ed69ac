"""Imports and includes point one way; a wrong arrow fails here, with the file and the line.

The rules are the drawing in CONTRIBUTING, as tables. A new module or folder needs its line here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Module or package of sparsekd -> the others that it may import.
_DATA = {"spec", "numerics", "modules"}
_WIRING = {"flow", "folding"}  # how a model is put together; torch alone
_ENGINE = {*_DATA, "backend", "direct", "images", "ops"}
PYTHON = {
    "spec": set(),
    "numerics": set(),
    "_source_hash": set(),
    "modules": {"spec"},
    "slots": {"spec"},
    "batches": set(),
    "distill": {*_DATA, "batches"},
    "prune": {*_DATA, "slots"},
    "flow": _DATA,
    "folding": {*_DATA, "flow"},
    "quantize": {*_DATA, *_WIRING, "batches"},
    "backend": {"spec"},
    "direct": {"backend"},
    "images": set(),  # memory formats and the arithmetic of u8 between layers; torch alone
    "ops": {"backend", "direct", "images", "spec"},
    "image_ops": {"backend", "images", "ops"},
    "nn": {*_ENGINE, "image_ops"},
    "environment": {"backend"},
    "whole_cores": {"backend"},
    "benchmark": {"environment", "spec", "whole_cores"},
    "doctor": {"backend", "environment"},
    "choice": {
        *_ENGINE,
        "benchmark",
        "environment",
        "whole_cores",
    },  # times modules, does not make them
    "convert": {*_ENGINE, *_WIRING, "nn", "choice", "slots", "whole_cores"},
    "comparison": set(),  # what a verification found
    "rounding": {*_DATA, "nn"},  # the bound of float layers
    "verify": {*_ENGINE, *_WIRING, "nn", "comparison", "rounding"},
    "tune": {*_ENGINE, "nn", "choice", "convert"},
    "io": {*_ENGINE, *_WIRING, "nn", "choice", "convert", "tune"},
    "report": {"benchmark", "environment", "spec"},
}
_LIBRARY = set(PYTHON)
PYTHON["bench"] = _LIBRARY
PYTHON["quickstart"] = {*_LIBRARY, "bench"}
PYTHON["cli"] = {*_LIBRARY, "bench", "quickstart"}
PYTHON["__main__"] = {"cli"}

#: The training side and everything that `import sparsekd` may load: torch and nothing else at the
#: top of a file, so that importing costs next to nothing.
LIGHT = {
    *_ENGINE,
    *_WIRING,
    "batches",
    "slots",
    "distill",
    "prune",
    "quantize",
    "nn",
    "choice",
    "convert",
    "tune",
    "verify",
    "environment",
    "whole_cores",
}
HEAVY = {"jsonargparse", "matplotlib", "numpy", "pydantic", "rich", "safetensors", "tqdm"}

#: Folder of csrc -> the folders whose headers it may include.
CPP = {
    "core": {"core"},
    "kernels": {"kernels"},
    "formats": {"core", "kernels", "formats"},
    "dispatch": {"core", "kernels", "dispatch"},
    "ops": {"core", "kernels", "formats", "dispatch", "ops"},
    "probe": {"core", "dispatch", "probe"},
    "bindings": {"core", "kernels", "formats", "dispatch", "ops", "probe", "bindings"},
    "check": {"core", "kernels", "formats", "dispatch", "ops", "check"},
}
#: System headers that belong to one place: pattern -> files that may include a match.
CPP_SYSTEM = {
    r"pybind11/.*|Python\.h": r"bindings/.*",
    r"omp\.h|thread|future|pthread\.h": r"core/threads\.cpp",
    r"immintrin\.h": r"kernels/isa/.*",
    r"torch/.*|ATen/.*|c10/.*": r"(?!)",
}
#: Kernels are inner loops: no containers, no allocation, no threads, no exceptions.
KERNEL_HEADERS = {"cstdint", "cstring", "cstddef", "cmath", "limits", "immintrin.h"}


def python_arrows(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, whether at the top of the file) of everything that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(tree.body)
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            yield node.lineno, name, node in top


def wrong_python(root: Path) -> list[str]:
    """The wrong imports of every file under root/sparsekd, as sentences."""
    wrong = []
    for path in sorted((root / "sparsekd").rglob("*.py")):
        parts = path.relative_to(root / "sparsekd").with_suffix("").parts
        unit = parts[0]
        if unit == "__init__":  # imports lazily, by name
            continue
        if unit not in PYTHON:
            wrong.append(f"{path}: no rule for sparsekd.{unit} in tests/test_layering.py")
            continue
        for line, name, top in python_arrows(path):
            first, *rest = name.split(".")
            place = f"{path}:{line}: {name}"
            if name.startswith("."):
                wrong.append(f"{place}: relative import")
            elif first == "sparsekd":
                if not _allowed(unit, rest[0] if rest else ""):
                    wrong.append(f"{place}: sparsekd.{unit} may not import it")
            elif top and unit in LIGHT and first in HEAVY:
                wrong.append(f"{place}: import it in the function that needs it")
        if unit != "backend" and re.search(r"sparsekd\._native\b(?!`)", path.read_text()):
            wrong.append(f"{path}: names sparsekd._native, which backend.py alone imports")
    return wrong


def _allowed(unit: str, target: str) -> bool:
    if target == unit or target in PYTHON[unit] or target.startswith("__"):
        return True
    # The package itself (""), or a public name of it such as `load`: for the top layers alone.
    return unit in {"bench", "quickstart", "cli"} and target not in PYTHON


def wrong_cpp(root: Path) -> list[str]:
    """The wrong includes of every file under root/csrc, as sentences."""
    wrong = []
    for path in sorted((root / "csrc").rglob("*.*")):
        if path.suffix not in {".cpp", ".h", ".inl"}:
            continue
        name = path.relative_to(root / "csrc").as_posix()
        folder = name.split("/")[0]
        if folder not in CPP:
            wrong.append(f"{name}: no rule for this folder in tests/test_layering.py")
            continue
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not (match := re.match(r"\s*#\s*include\s*([<\"])([^>\"]+)", text)):
                continue
            quote, header = match.groups()
            if sentence := _wrong_include(name, folder, quote, header):
                wrong.append(f"{name}:{line}: {header}: {sentence}")
    return wrong


def _wrong_include(name: str, folder: str, quote: str, header: str) -> str:
    for pattern, home in CPP_SYSTEM.items():
        if re.fullmatch(pattern, header) and not re.fullmatch(home, name):
            return f"belongs to {home}" if home != "(?!)" else "the engine does not know torch"
    if quote == "<":
        if folder == "kernels" and header not in KERNEL_HEADERS:
            return "kernels are inner loops; this header is not for them"
        return ""
    if header == "source_hash.h":  # written by the build
        return "" if folder == "bindings" else "bindings alone report it"
    if header.split("/")[0] not in CPP[folder]:
        return f"{folder} may not include it"
    instruction_set = re.match(r"kernels/(vec|bodies)/", header)
    if instruction_set and not re.match(r"kernels/(isa|vec|bodies)/", name):
        return "kernels/isa alone is compiled for one instruction set"
    return ""


def test_python_imports_point_one_way() -> None:
    assert wrong_python(ROOT) == []


@pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="needs the source tree")
def test_cpp_includes_point_one_way() -> None:
    assert wrong_cpp(ROOT) == []


def test_the_rules_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(PYTHON):
        ready = {unit for unit, others in PYTHON.items() if others & set(PYTHON) <= done} - done
        assert ready, f"a cycle among {set(PYTHON) - done}"
        done |= ready


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("prune/_scores.py", "from sparsekd.nn import Linear", "may not import"),
        ("quantize/_prepare.py", "from sparsekd import prune", "may not import"),
        ("spec.py", "def f():\n    import sparsekd.backend", "may not import"),
        ("nn/_linear.py", "from sparsekd.convert import convert", "may not import"),
        ("convert/_convert.py", "import sparsekd.io", "may not import"),
        ("nn/_linear.py", "import sparsekd._native", "backend.py alone"),
        ("ops.py", "importlib.import_module('sparsekd._native')", "backend.py alone"),
        ("verify.py", "import sparsekd as skd", "may not import"),
        ("bench/linear.py", "from sparsekd import quickstart", "may not import"),
        ("report/console.py", "from sparsekd.cli import main", "may not import"),
        ("prune/_masks.py", "import tqdm", "in the function"),
        ("prune/_masks.py", "from . import scores", "relative"),
        ("newcomer.py", "import torch", "no rule"),
    ],
)
def test_a_planted_python_arrow_is_found(tmp_path: Path, file: str, line: str, fault: str) -> None:
    path = tmp_path / "sparsekd" / file
    path.parent.mkdir(parents=True)
    path.write_text("from __future__ import annotations\n" + line + "\n")
    found = wrong_python(tmp_path)
    assert len(found) >= 1
    assert fault in found[-1], found


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("kernels/bodies/dense_s8.inl", '#include "core/check.h"', "may not include"),
        ("kernels/reference.h", "#include <vector>", "inner loops"),
        ("formats/dense_s8.h", '#include "ops/linear.h"', "may not include"),
        ("formats/dense_s8.cpp", '#include "dispatch/dispatch.h"', "may not include"),
        ("core/check.h", '#include "kernels/kernels.h"', "may not include"),
        ("dispatch/dispatch.cpp", '#include "formats/dense_s8.h"', "may not include"),
        ("ops/linear.cpp", '#include "kernels/vec/avx2.inl"', "one instruction set"),
        ("ops/linear.cpp", "#include <pybind11/numpy.h>", "belongs to bindings"),
        ("ops/linear.cpp", "#include <omp.h>", "belongs to core/threads"),
        ("ops/linear.cpp", "#include <immintrin.h>", "belongs to kernels/isa"),
        ("bindings/module.cpp", "#include <torch/extension.h>", "does not know torch"),
        ("bindings/module.cpp", '#include "check/problem.h"', "may not include"),
        ("newcomer/a.h", "#include <vector>", "no rule"),
    ],
)
def test_a_planted_include_is_found(tmp_path: Path, file: str, line: str, fault: str) -> None:
    path = tmp_path / "csrc" / file
    path.parent.mkdir(parents=True)
    path.write_text("#pragma once\n" + line + "\n")
    found = wrong_cpp(tmp_path)
    assert len(found) == 1
    assert fault in found[0], found
