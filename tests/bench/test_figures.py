"""``bench/figures.py``: what was measured gets into the document, and nothing else changes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_definition import TINY

from sparsekd.bench import (
    LinearBenchResult,
    ModelBenchConfig,
    ModelBenchResult,
    bench_model,
)
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
    text = "\n".join(figures.linear_lines(result()))
    assert "| rows × in → out | yardstick, ms | dense int8 | 75 % |" in text
    assert "| 8x64->32 | OpenVINO 0.100 | 0.125 (0.80× slower) | 0.0500 (2.00×) |" in text
    assert "openvino 9.9; 2030-01-02" in text
    assert "python bench/figures.py --write" in text
    assert "not to be quoted" not in text
    assert "Others used the cores at 8x64->32" in "\n".join(figures.linear_lines(result(0.7)))


def test_only_the_block_is_replaced(figures: ModuleType) -> None:
    others = "<!-- figures: cnn -->\nkept\n<!-- /figures -->\n"
    before = f"{others}a\n<!-- figures: linear -->\nold\n<!-- /figures -->\nb\n{others[:5]}"
    after = figures.replaced(before, "linear", "new\n")
    assert after == before.replace("old", "new")
    assert figures.replaced(after, "linear", "new") == after
    twice = 2 * "<!-- figures: linear -->\n<!-- /figures -->\n"
    backwards = "<!-- /figures --><!-- figures: linear -->"
    for wrong in ("", others, "<!-- figures: linear -->", backwards, twice):
        with pytest.raises(ValueError, match="needs one <!-- figures: linear -->"):
            figures.replaced(wrong, "linear", "new")


def test_write(figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "doc.md"
    document.write_text("<!-- figures: linear -->\n<!-- /figures -->\n", encoding="utf-8")
    asked: list[Any] = []
    monkeypatch.setattr(figures, "bench_linear", lambda config: asked.append(config) or result())
    wanted = ["--write", "--only", "linear", "--document", str(document), "--out", str(tmp_path)]
    assert figures.main(wanted) == 0
    assert asked[0].preset == "readme"
    assert "0.0500 (2.00×)" in document.read_text(encoding="utf-8")


def test_models_in_markdown(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "definitions"
    folder.mkdir()
    (folder / "__init__.py").write_text(TINY)

    def measured(config: ModelBenchConfig) -> ModelBenchResult:
        assert "resnet50" in config.models
        quick = replace(
            config, models="tiny", sparsity="0.75", rounds=1, calls=2, pause_s=0.0, peers=False,
            definitions=str(folder),
        )  # fmt: skip
        return bench_model(quick, progress=False)

    monkeypatch.setattr(figures, "bench_model", measured)
    text = figures.models(tmp_path / "out")
    assert "| ours dense int8 | ours 8:32 int8 |" in text
    assert text.count("| tiny 1 |") == 3  # times, and where they go for each variant
    assert "6 of 6 converted layers of the 2 models agreed bit for bit" in text
    assert "- tiny (a note, random weights): ours dense int8 " in text


def test_the_quickstart_in_a_fence(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass
    class Shown:
        files: tuple[Path, ...] = (tmp_path,)
        verified = True

        def __rich__(self) -> str:
            return f"a table   \n57 s{self.files or ''}"

    monkeypatch.setattr(figures, "quickstart", lambda config: Shown())
    assert figures.cnn(tmp_path) == "```\na table\n57 s\n```"
    Shown.verified = False
    with pytest.raises(RuntimeError, match="cnn does not hold"):
        figures.cnn(tmp_path)


def test_a_document_without_markers_is_refused_before_measuring(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "doc.md"
    document.write_text("nothing", encoding="utf-8")
    monkeypatch.setattr(figures, "bench_linear", lambda config: pytest.fail("it measured"))
    assert figures.main(["--write", "--only", "linear", "--document", str(document)]) == 2
    assert document.read_text(encoding="utf-8") == "nothing"


def test_the_readme_has_a_place_for_each(figures: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in figures.BLOCKS:
        assert "new figures" in figures.replaced(text, name, "new figures")
