"""Which points and engines a comparison has."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsekd.bench.linear_plan import (
    PEERS,
    PRESETS,
    SMALLEST,
    TRAINED,
    Layer,
    Part,
    layers_of,
    plan,
    trained_weight,
)
from sparsekd.bench.peers import PeerMissingError
from sparsekd.bench.runner import Timing

FOLDER = Path(__file__).resolve().parents[2] / "bench" / "models"


def test_parts_that_share_a_point_are_measured_together() -> None:
    parts = [
        Part(("64x32",), (1, 8), ("int8",), (0.5, 0.75)),
        Part(("64x32", "32x32"), (8,), ("fp32-n16",), (0.5,)),
    ]
    points = {(p.layer, p.rows): [c.name for c in p.contenders] for p in plan(parts, [1], PEERS)}
    assert list(points) == [
        (SMALLEST, 1),
        (Layer(64, 32), 1),
        (Layer(64, 32), 8),
        (Layer(32, 32), 8),
    ]
    both = points[Layer(64, 32), 8]
    assert len(set(both)) == len(both)
    for name in (
        "sparsekd int8 16:32",
        "sparsekd int8 8:32",
        "sparsekd fp32-n16 8:16",
        "torch fp32",
        "torch dynamic int8",
        "OpenVINO int8",
        "ONNX Runtime fp32",
    ):
        assert name in both
    assert "torch fp32" not in points[Layer(64, 32), 1]
    assert "OpenVINO int8" not in points[Layer(32, 32), 8]
    smallest = points[SMALLEST, 1]
    assert "sparsekd int8 16:32" in smallest
    assert "sparsekd int8 8:32" not in smallest
    assert "sparsekd fp32-n16 8:16" in smallest


def test_yardsticks_can_be_named() -> None:
    part = Part(("64x32",), (1,), ("int8",), (0.5,), ("dense fp32",))
    names = {c.name for c in plan([part], [1], ["torch"])[-1].contenders}
    assert {"torch fp32", "sparsekd int8 16:32"} <= names
    assert "torch dynamic int8" not in names


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_what_they_can_be(name: str) -> None:
    for part in PRESETS[name].parts:
        part.check()
    points = plan(PRESETS[name].parts, [2, 1], PEERS)
    assert len({(p.layer, p.rows, p.threads) for p in points}) == len(points)
    assert all(p.seconds(Timing()) > 0 for p in points)


def test_trained_layers() -> None:
    layers = layers_of(["64x32", "minilm"])
    assert layers[0] == Layer(64, 32)
    assert len(layers) == 1 + len(TRAINED)
    up = Layer(384, 1536, "encoder.encoder.layer.2.intermediate.dense")
    assert up in layers
    assert up.title(8) == "8x384->1536 2.intermediate"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")
def test_trained_weights_are_real() -> None:
    try:
        for name, (inputs, outputs) in TRAINED.items():
            weight = trained_weight(name, str(FOLDER))
            assert weight.shape == (outputs, inputs)
            assert not weight.requires_grad
            kurtosis = ((weight - weight.mean()) ** 4).mean() / weight.var() ** 2
            assert kurtosis > 3.05  # heavier tails than those of a normal draw
    except (PeerMissingError, ImportError) as missing:
        pytest.skip(str(missing))
