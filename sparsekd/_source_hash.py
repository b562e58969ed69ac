"""One hash over the sources of the compiled part.

The build writes it into the extension; a test compares it with the tree, so that a stale extension
is noticed. Runs without torch and without the package: the build calls it as a script.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

_SUFFIXES = {".cpp", ".h", ".inl"}


def source_hash(root: Path) -> str:
    """SHA-256 over CMakeLists.txt and the C++ sources under ``root``, names included."""
    sources = [p for p in (root / "csrc").rglob("*") if p.suffix in _SUFFIXES]
    digest = hashlib.sha256()
    for path in sorted([*sources, root / "CMakeLists.txt"]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


if __name__ == "__main__":
    header = Path(sys.argv[2])
    header.parent.mkdir(parents=True, exist_ok=True)
    header.write_text(f'#pragma once\n#define SKD_SOURCE_HASH "{source_hash(Path(sys.argv[1]))}"\n')
