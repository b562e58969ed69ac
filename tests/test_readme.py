"""The README's example runs as it stands, and its two commands are where CI looks for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2  # the second goes on where the first ends
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile("".join(blocks), "README.md", "exec"), names)
    assert names["report"].ok  # type: ignore[attr-defined]
    assert (tmp_path / "model.safetensors").stat().st_size > 1_000_000
    assert "75.00%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "ends"), [("quickstart", ".venv/bin/sparsekd quickstart"), ("test", "pytest -q")]
)
def test_commands_are_one_line(name: str, ends: str) -> None:
    block = re.search(rf"<!-- {name} -->\n```bash\n(.*?)```", README, flags=re.DOTALL)
    assert block is not None
    lines = block[1].strip().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(ends)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
