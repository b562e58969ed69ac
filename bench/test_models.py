"""Whole models on every engine; the same contenders as `sparsekd bench model`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from sparsekd.bench.definitions import ModelDefinition, load_definitions
from sparsekd.bench.networks import NetworkProblem, network_peers
from sparsekd.bench.peers import PeerMissingError
from sparsekd.bench.runner import Contender
from sparsekd.bench.variants import make_variant

THREADS = 2
SPARSITIES = (0.0, 0.5, 0.75)
DEFINITIONS = load_definitions(Path(__file__).parent / "models")


@cache
def model_of(name: str) -> nn.Module:
    try:
        return DEFINITIONS[name].build()
    except (ImportError, FileNotFoundError) as error:
        pytest.skip(str(error))


@cache
def variant_of(name: str, sparsity: float) -> Contender[NetworkProblem]:
    """Ours, verified: what is not equal to torch is not timed."""
    definition = DEFINITIONS[name]
    variant = make_variant(definition, model_of(name), sparsity)
    assert variant.verified.ok, str(variant.verified)
    return variant.contenders(images=definition.images)[0]


def contenders(definition: ModelDefinition) -> Iterator[str]:
    yield from (f"sparsekd at {sparsity:g}" for sparsity in SPARSITIES)
    peers = network_peers(images=definition.images, dynamic=definition.dynamic)
    yield from (peer.name for peer in peers)


def chosen(name: str, contender: str) -> Contender[NetworkProblem]:
    definition = DEFINITIONS[name]
    if contender.startswith("sparsekd"):
        return variant_of(name, float(contender.split()[-1]))
    peers = network_peers(images=definition.images, dynamic=definition.dynamic)
    return next(peer for peer in peers if peer.name == contender)


CASES = [
    pytest.param(name, case, contender, id=f"{name}-{case}-{contender.replace(' ', '_')}")
    for name, definition in DEFINITIONS.items()
    for case in definition.cases
    for contender in contenders(definition)
]


@pytest.mark.parametrize(("name", "case", "contender"), CASES)
def test_model(benchmark: BenchmarkFixture, name: str, case: str, contender: str) -> None:
    definition, model = DEFINITIONS[name], model_of(name)
    exported = definition.export_form(model) if definition.export_form else None
    inputs = tuple(definition.cases[case]())
    problem = NetworkProblem(model, inputs, THREADS, definition.dynamic, exported)
    try:
        engine = chosen(name, contender).build(problem)
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    benchmark.group = f"{name}, {case}"
    benchmark.extra_info.update(version=engine.version, config=dict(engine.config))
    with torch.inference_mode():
        benchmark.pedantic(engine.run, rounds=9, iterations=1, warmup_rounds=2)
