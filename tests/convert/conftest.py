from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed_and_no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield
