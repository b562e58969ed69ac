"""What several test files share: the choice of instruction set, seeds, torch's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sparsekd import backend


@pytest.fixture(autouse=True, scope="session")
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests run in an empty folder: `python -c` puts the working folder first on its path, and in
    the source folder would import the package without its compiled part."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test starts from one seed; what it changed in torch or the engine is put back."""
    threads, isa = torch.get_num_threads(), backend.isa()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    backend.set_isa(isa)


@pytest.fixture(params=backend.available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Runs the test once on each instruction set that this CPU has."""
    name: str = request.param
    backend.set_isa(name)
    return name
