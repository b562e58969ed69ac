"""Real English sentences that every Debian machine has: the descriptions of packages."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["sentences"]

INSTALLED = Path("/var/lib/dpkg/status")  # whole descriptions of what is installed
# Descriptions of everything that could be: a line each, or whole ones, as apt was set up.
AVAILABLE = (["apt-cache", "dumpavail"], Path("/var/lib/dpkg/available"))
SHORTEST, LONGEST = 5, 40  # words


def sentences(count: int = 1000) -> list[str]:
    """Distinct sentences, first those of installed packages; the same on a machine that is so.

    Raises:
        FileNotFoundError: the machine has no, or too few, package descriptions.

    >>> len(sentences(10))
    10
    """
    found: dict[str, None] = {}  # ordered, each once
    for text in _sources():
        for description in _descriptions(text):
            for sentence in _split(description):
                found.setdefault(sentence)
                if len(found) == count:
                    return list(found)
    raise FileNotFoundError(
        f"needs {count} sentences from Debian's package descriptions, found {len(found)}: neither "
        f"{INSTALLED}, nor `apt-cache dumpavail` (after `apt-get update`), nor {AVAILABLE[1]} "
        "holds enough"
    )


def _sources() -> Iterator[str]:
    if INSTALLED.is_file():
        yield INSTALLED.read_text(encoding="utf-8", errors="replace")
    command, file = AVAILABLE
    found = ""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no apt: there is the file
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    yield found
    if file.is_file():
        yield file.read_text(encoding="utf-8", errors="replace")


def _descriptions(text: str) -> Iterator[str]:
    """The long part of each Description field of control data, or the short one if it is alone."""
    for field in re.finditer(r"^Description(?:-en)?: (.*)\n((?: .*\n)*)", text, re.MULTILINE):
        summary, body = field.groups()
        lines = [line[1:] for line in body.splitlines()]
        # Lines that are indented further are lists and examples, "." an empty line.
        prose = " ".join("\n" if line == "." else line for line in lines if line[:1] != " ")
        yield prose or summary


def _split(description: str) -> Iterator[str]:
    for paragraph in description.split("\n"):
        for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
            if SHORTEST <= len(part.split()) <= LONGEST:
                yield part
