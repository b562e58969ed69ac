"""Loads and runs every variant of a file with one bit flipped; run by test_malformed.py.

The hash is not checked, so that validation alone protects. Each variant must be refused with a
ValueError, or load and run. A crash ends this process, any other exception too.

Arguments: the file, then "header" or "indices".
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from sparsekd.io import load

INDICES = ("step_ptr", "steps", "positions", "input_zero_point")


def places(content: bytes, part: str) -> Iterator[int]:
    """The bytes to be damaged."""
    start = 8 + int.from_bytes(content[:8], "little")
    if part == "header":
        yield from range(start)
        return
    header = json.loads(content[8:start])
    for name, entry in header.items():
        if name.rpartition(".")[2] in INDICES:
            yield from range(*(start + offset for offset in entry["data_offsets"]))


def main(path: Path, part: str) -> None:
    torch.set_num_threads(1)
    content, x = path.read_bytes(), torch.randn(3, 70)
    variant = path.with_suffix(".flipped")
    outcomes: Counter[str] = Counter()
    for place in places(content, part):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            variant.write_bytes(damaged)
            try:
                model = load(variant, nn.Sequential(nn.Linear(70, 18), nn.ReLU()), check_hash=False)
            except ValueError as error:
                if "\n" in str(error) or str(variant) not in str(error):
                    raise
                outcomes["refused"] += 1
            else:
                if model(x).shape != (3, 18):
                    raise AssertionError(f"byte {place}, bit {bit}: wrong shape")
                outcomes["loaded"] += 1
    print(outcomes["refused"], outcomes["loaded"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
