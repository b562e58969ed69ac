"""Is this installation sound? Versions, what the processor offers, and a self-test of every ISA."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsekd.environment import host

__all__ = ["Check", "Diagnosis", "diagnose", "openmp_runtimes"]

_OPENMP = re.compile(r"/lib(gomp|omp|omp5|iomp5)(-[0-9a-f]+)?\.so[.\d]*$")


@dataclass(frozen=True)
class Check:
    """One finding; ``detail`` says what was found and, where it is bad, what to do."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found. ``str()`` is the report.

    Attributes:
        environment: processor, threads and versions.
        native: what the compiled part says of itself; empty where it is missing.
        checks: in the order in which they ran.
    """

    environment: dict[str, Any]
    native: dict[str, Any]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True when every check passed."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain JSON types."""
        return {"ok": self.ok, **asdict(self)}

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        facts = {**self.environment, **self.environment["versions"], **self.native}
        del facts["versions"]
        width = max(map(len, [*facts, *(check.name for check in self.checks)]))
        lines = [
            f"{name.replace('_', ' '):<{width}}  {_text(value)}" for name, value in facts.items()
        ]
        verdicts = [
            f"{check.name:<{width}}  {'ok' if check.ok else 'FAILED'}: {check.detail}"
            for check in self.checks
        ]
        bad = sum(not check.ok for check in self.checks)
        end = "all checks passed" if self.ok else f"{bad} of {len(self.checks)} checks FAILED"
        return "\n".join([*lines, "", *verdicts, "", end])


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def diagnose(problems: int = 500, timeout_s: float = 120.0) -> Diagnosis:
    """Look at everything that the engine rests on.

    Args:
        problems: random problems that the self-test solves on each ISA.
        timeout_s: after so many seconds the self-test of an ISA counts as failed.

    Returns:
        The findings; it does not raise for a broken installation, it describes it.

    >>> diagnose(problems=100).ok
    True
    """
    if problems < 1:
        raise ValueError(f"doctor needs problems >= 1, got {problems}")
    try:
        from sparsekd import backend

        backend.require()
    except ImportError as error:
        missing = Check("compiled part", False, str(error))
        return Diagnosis(host(), {}, (missing, _check_openmp()))
    checks = [Check("compiled part", True, "present and loads"), _check_choice(), _check_openmp()]
    native = backend.info() if checks[1].ok else {}
    try:
        binary = backend.check_binary()
    except ImportError as error:
        checks.append(Check("self-test", False, str(error)))
    else:
        for isa in backend.available_isas():
            checks.append(_self_test(binary, isa, problems, timeout_s))
    return Diagnosis(host(), native, tuple(checks))


def _check_choice() -> Check:
    """SPARSEKD_ISA may name an ISA that does not exist or that this CPU lacks."""
    from sparsekd import backend

    try:
        return Check("isa in use", True, backend.isa())
    except ValueError as error:
        return Check("isa in use", False, str(error))


def openmp_runtimes(maps: str | None = None) -> list[str]:
    """File names of the OpenMP runtimes loaded in this process, sorted.

    Args:
        maps: text in the form of ``/proc/self/maps``; None reads that file.

    Returns:
        Names without folders, one for each file, so that two copies show as two. Empty where the
        system has no such listing.
    """
    if maps is None:
        try:
            maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        except OSError:
            return []
    fields = (line.split(maxsplit=5) for line in maps.splitlines())
    paths = {entry[5].removesuffix(" (deleted)") for entry in fields if len(entry) > 5}
    return sorted(Path(path).name for path in paths if _OPENMP.search(path))


def _check_openmp() -> Check:
    """Two runtimes in one process keep two teams of threads, which fight for the cores."""
    if not Path("/proc/self/maps").exists():
        return Check("OpenMP runtime", True, "this system does not list loaded libraries")
    found = openmp_runtimes()
    detail = ", ".join(found) or "none is loaded, though torch brings one"
    if len(found) > 1:
        detail += ": there must be exactly one; import torch first, and look for a package that "
        detail += "brings its own copy"
    return Check("OpenMP runtime", len(found) == 1, detail)


def _self_test(binary: Path, isa: str, problems: int, timeout_s: float) -> Check:
    name = f"self-test {isa}"
    command = [str(binary), "--isa", isa, "--problems", str(problems)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Check(name, False, f"not finished after {timeout_s:g} s")
    except OSError as error:
        return Check(name, False, f"does not start: {error}")
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    said = lines[-1].strip() if lines else "it printed nothing"
    if done.returncode == 0:
        return Check(name, True, said)
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
    return Check(name, False, f"{how}: {said}")
