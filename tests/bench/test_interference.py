"""Others on the cores are noticed, and a point is measured again when they were there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsekd.bench import interference, runner
from sparsekd.bench.interference import Interference
from sparsekd.bench.runner import Timing, run_point

ONCE = Timing(rounds=1, calls=2, pause_s=0.0, min_block_s=0.0)


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux alone tells")
def test_another_process_counts_and_ones_own_does_not() -> None:
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = Interference()
        spin(0.5)
        beside = watch.cores()
    finally:
        other.kill()
        other.wait()
    assert beside is not None
    assert beside > 0.3  # a machine with one core shares it
    own = interference._own_s()
    spin(0.3)
    assert interference._own_s() - own > 0.1


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text in (None, "cpu 1 2\n"):
        path = tmp_path / "stat"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(interference, "_STAT", path)
        assert Interference().cores() is None


def attempts(monkeypatch: pytest.MonkeyPatch, *shares: float | None) -> tuple[int, float | None]:
    """(how often was measured, what was kept) when others use so many cores, time after time."""
    given: Iterator[float | None] = iter(shares)
    count = 0

    class Told:
        def cores(self) -> float | None:
            return next(given)

    def measure(runs: object, **_: object) -> dict[str, object]:
        nonlocal count
        count += 1
        return {}

    monkeypatch.setattr(runner, "Interference", Told)
    monkeypatch.setattr(runner, "measure", measure)
    point = run_point(None, [], ONCE, title="", case={}, error_of=lambda *_: 0.0, bounds={})
    return count, point.others


def test_the_quietest_attempt_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempts(monkeypatch, 0.05) == (1, 0.05)
    assert attempts(monkeypatch, 0.5, 0.02) == (2, 0.02)
    assert attempts(monkeypatch, 0.5, 0.8) == (2, 0.5)
    assert attempts(monkeypatch, None) == (1, None)
