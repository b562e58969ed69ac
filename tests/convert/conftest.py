from __future__ import annotations

import pytest
import torch

from sparsekd.convert import _convert


@pytest.fixture(autouse=True)
def _seed_and_no_grad(monkeypatch):
    monkeypatch.setattr(_convert, "SECONDS", 0.1)  # no test depends on what is the fastest
    torch.manual_seed(0)
    with torch.no_grad():
        yield
