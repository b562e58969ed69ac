"""``bench/figures.py``: what was measured gets into the document, and nothing else changes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sparsekd.bench import LinearBenchResult
from sparsekd.bench.record import Entry, Point
from sparsekd.benchmark import Samples

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "figures.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(others: float = 0.0) -> LinearBenchResult:
    def entry(name: str, kind: Any, us: float, family: str = "", sparsity: Any = None) -> Entry:
        samples = Samples((us * 1e-6,))
        version = "sparsekd 1" if family else "openvino 9.9"
        return Entry(name, kind, bool(family), version, {}, 0, 0, samples, family, sparsity)

    entries = (
        entry("ours", "sparse int8", 50.0, "int8 n:32", 0.75),
        entry("ours dense", "dense int8", 125.0, "dense int8"),
        entry("OpenVINO int8", "dense int8", 100.0),
    )
    case = {"rows": 8, "in": 64, "out": 32, "weights": "random", "threads": 2}
    where = {"cpu": "a cpu", "threads": "2", "isa": "x", "versions": {"torch": "2"}}
    return LinearBenchResult(
        (Point("8x64->32", case, entries, {}, others),), {}, {**where, "date": "2030-01-02T03"}
    )


def test_tables_in_markdown(figures: ModuleType) -> None:
    text = "\n".join(figures.tables(result()))
    assert "| rows × in → out | yardstick, ms | dense int8 | 75 % |" in text
    assert "| 8x64->32 | OpenVINO 0.100 | 0.125 (0.80× slower) | 0.0500 (2.00×) |" in text
    assert "openvino 9.9; 2030-01-02" in text
    assert "python bench/figures.py --write" in text
    assert "not to be quoted" not in text
    assert "Others used the cores at 8x64->32" in "\n".join(figures.tables(result(0.7)))


def test_only_the_block_is_replaced(figures: ModuleType) -> None:
    before = "a\n<!-- figures -->\nold\n<!-- /figures -->\nb\n"
    after = figures.replaced(before, "new\n")
    assert after == "a\n<!-- figures -->\nnew\n<!-- /figures -->\nb\n"
    assert figures.replaced(after, "new") == after
    for wrong in ("", "<!-- figures -->", "<!-- /figures --><!-- figures -->", before + before):
        with pytest.raises(ValueError, match="needs one"):
            figures.replaced(wrong, "new")


def test_write(figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "doc.md"
    document.write_text("<!-- figures -->\n<!-- /figures -->\n", encoding="utf-8")
    asked: list[Any] = []
    monkeypatch.setattr(figures, "bench_linear", lambda config: asked.append(config) or result())
    assert figures.main(["--write", "--document", str(document), "--out", str(tmp_path)]) == 0
    assert asked[0].preset == "readme"
    assert "0.0500 (2.00×)" in document.read_text(encoding="utf-8")


def test_a_document_without_markers_is_refused_before_measuring(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "doc.md"
    document.write_text("nothing", encoding="utf-8")
    monkeypatch.setattr(figures, "bench_linear", lambda config: pytest.fail("it measured"))
    assert figures.main(["--write", "--document", str(document)]) == 2
    assert document.read_text(encoding="utf-8") == "nothing"


def test_the_readme_has_its_place(figures: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "new figures" in figures.replaced(text, "new figures")
