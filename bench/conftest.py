"""Suites of pytest-benchmark: `pip install '.[bench]'`, then `python -m pytest bench`.

They are no tests and no part of the test command; their figures depend on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

THREADS = 2


@pytest.fixture(autouse=True)
def pinned_threads() -> Iterator[None]:
    """Every engine gets the same two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)
