"""doctor says what is wrong, and says so with its exit status."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from sparsekd import backend
from sparsekd.doctor import Check, Diagnosis, diagnose, openmp_runtimes


def program(folder: Path, text: str) -> Path:
    """An executable shell script in place of the self-test program."""
    path = folder / "skd-check"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def verdicts(diagnosis: Diagnosis) -> dict[str, Check]:
    return {check.name: check for check in diagnosis.checks}


def test_this_installation_is_sound() -> None:
    found = diagnose(problems=40)
    assert found.ok, str(found)
    assert {f"self-test {isa}" for isa in backend.available_isas()} <= set(verdicts(found))
    assert found.native["source_hash"] == backend.info()["source_hash"]
    assert str(found).endswith("all checks passed")


def test_each_available_isa_is_tested_with_the_asked_number_of_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "check_binary", lambda: program(tmp_path, 'echo "got $*"\n'))
    found = verdicts(diagnose(problems=7))
    for isa in backend.available_isas():
        assert found[f"self-test {isa}"] == Check(
            f"self-test {isa}", True, f"got --isa {isa} --problems 7"
        )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('echo fine\necho "skd-check --isa x --seed 3" >&2\nexit 1\n', "status 1: skd-check --isa"),
        ("kill -ILL $$\n", "signal 4: it printed nothing"),
        ("exec sleep 30\n", "not finished after 0.2 s"),
    ],
)
def test_a_failing_self_test_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(backend, "check_binary", lambda: program(tmp_path, script))
    monkeypatch.setattr(backend, "available_isas", lambda: ("scalar",))
    found = diagnose(problems=1, timeout_s=0.2 if "sleep" in script else 20)
    assert not found.ok
    assert message in verdicts(found)["self-test scalar"].detail
    assert "1 of 4 checks FAILED" in str(found)


def test_a_program_that_can_not_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "skd-check"
    path.write_bytes(b"\x7fELF and then nothing")
    monkeypatch.setattr(backend, "check_binary", lambda: path)
    assert "does not start" in verdicts(diagnose(1))[f"self-test {backend.isa()}"].detail


def test_a_missing_extension_is_described_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise backend.NativeMissingError("no extension here; build it with 'pip install .'")

    monkeypatch.setattr(backend, "require", missing)
    found = diagnose()
    assert not found.ok
    assert verdicts(found)["compiled part"].detail.endswith("build it with 'pip install .'")


def test_a_wrong_isa_choice_is_described_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise ValueError("unknown instruction set 'avx9'")

    monkeypatch.setattr(backend, "isa", refuse)
    found = diagnose(problems=1)
    assert verdicts(found)["isa in use"] == Check(
        "isa in use", False, "unknown instruction set 'avx9'"
    )


def test_openmp_runtimes_are_read_from_the_map_of_the_process() -> None:
    line = "7f0000000000-7f0000001000 r-xp 00000000 00:00 42   "
    maps = "\n".join(
        line + path
        for path in (
            "/env/torch/lib/libgomp.so.1",
            "/env/torch/lib/libgomp.so.1",
            "/env/scikit learn.libs/libgomp-a34b3233.so.1.0.0",
            "/usr/lib/libomp.so.5 (deleted)",
            "/opt/intel/libiomp5.so",
            "/usr/lib/libompitrace.so.40",
            "/usr/lib/libm.so.6",
        )
    )
    expected = ["libgomp-a34b3233.so.1.0.0", "libgomp.so.1", "libiomp5.so", "libomp.so.5"]
    assert openmp_runtimes(maps + "\n7f-80 rw-p 00 00:00 0\n") == expected
    two_copies = f"{line}/a/libgomp.so.1\n{line}/b/libgomp.so.1"
    assert openmp_runtimes(two_copies) == ["libgomp.so.1", "libgomp.so.1"]


def test_two_runtimes_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsekd.doctor.openmp_runtimes", lambda: ["libgomp.so.1", "libomp.so"])
    check = verdicts(diagnose(1))["OpenMP runtime"]
    assert not check.ok
    assert "exactly one" in check.detail


def test_json_is_the_whole_report() -> None:
    found = Diagnosis({"versions": {"torch": "2"}}, {"isa": "scalar"}, (Check("a", False, "b"),))
    assert json.loads(found.to_json()) == {
        "ok": False,
        "environment": {"versions": {"torch": "2"}},
        "native": {"isa": "scalar"},
        "checks": [{"name": "a", "ok": False, "detail": "b"}],
    }


def test_problems_must_be_positive() -> None:
    with pytest.raises(ValueError, match="problems >= 1"):
        diagnose(problems=0)
