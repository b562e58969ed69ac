"""Where a figure comes from: what has to stand beside every number that is written down."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_BUSY = 1.6  # load a core

__all__ = ["busy_note", "cores", "cpu_model", "environment", "host", "where_text"]


def environment() -> dict[str, Any]:
    """Date, processor, threads, versions and ISA. No host name, no path.

    Returns:
        Plain JSON types. ``isa`` is None where the compiled part is not present.

    Raises:
        ValueError: the variable SPARSEKD_ISA names an ISA that this processor does not have.

    >>> environment()["threads"]
    2
    """
    return host() | {"isa": _isa()}


def host() -> dict[str, Any]:
    """:func:`environment` without the ISA, so without a look at the compiled part."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "machine": platform.machine(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "os": " ".join([platform.system(), *platform.libc_ver()]).strip(),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": _version("numpy"),
            "sparsekd": _version("sparsekd"),
        },
    }


def where_text(where: Mapping[str, Any]) -> str:
    """Processor, threads, ISA and torch of an :func:`environment`, for the head of a table."""
    threads = where["threads"]
    return (
        f"{where['cpu']}, {threads} thread{'s' * (threads != 1)}, ISA {where['isa']}, "
        f"torch {where['versions']['torch']}"
    )


def busy_note(where: Mapping[str, Any]) -> str | None:
    """A warning when others were using the cores of an :func:`environment`, else None.

    One's own threads make a load of one a core. Beyond that they wait for each other while others
    run, which costs engines of several threads far more than those of one: no ratio holds.

    >>> busy_note({"load": 0.4, "cores": 2}) is None
    True
    """
    load = where.get("load")
    if load is None or load <= _BUSY * where["cores"]:
        return None
    return f"the machine was busy (load {load} on {where['cores']} cores): do not quote the times"


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's own name, or "unknown"."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or "unknown"


def _isa() -> str | None:
    try:
        from sparsekd import backend

        return backend.isa()
    except ImportError:
        return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
