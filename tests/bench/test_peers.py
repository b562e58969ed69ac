"""The contenders of the comparison compute what they say."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from sparsekd.bench.linear import ERROR_BOUNDS
from sparsekd.bench.onnx_runtime import onnx_runtime_peers
from sparsekd.bench.openvino_runtime import openvino_peers
from sparsekd.bench.ours import our_peers, pattern_of
from sparsekd.bench.peers import (
    Engine,
    LinearProblem,
    Peer,
    PeerMissingError,
    dynamic_int8,
    output_error,
    torch_peers,
)

ALL = [*our_peers([0.5, 0.875]), *torch_peers(), *onnx_runtime_peers(), *openvino_peers()]


@pytest.fixture(scope="module")
def problem() -> LinearProblem:
    return LinearProblem.random(96, 48, 5, threads=1, seed=3)


def test_problem_is_the_same_for_the_same_seed(problem: LinearProblem) -> None:
    again = LinearProblem.random(96, 48, 5, threads=1, seed=3)
    other = LinearProblem.random(96, 48, 5, threads=1, seed=4)
    assert torch.equal(problem.weight, again.weight)
    assert all(torch.equal(a, b) for a, b in zip(problem.inputs, again.inputs, strict=True))
    assert not torch.equal(problem.weight, other.weight)
    assert len({x.data_ptr() for x in problem.inputs}) == 4


@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.name)
def test_each_engine_is_right_on_every_input(peer: Peer, problem: LinearProblem) -> None:
    try:
        engine = peer.build(problem)
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    for index, x in enumerate(problem.inputs):
        output = engine.output(index)
        assert output.shape == (x.shape[0], 48)
        assert output.dtype == torch.float32
    assert output_error(engine, problem) <= ERROR_BOUNDS[peer.kind]
    with torch.inference_mode():
        for _ in range(5):  # once around and on
            engine.run()
    assert engine.version.split()[-1][0].isdigit()


def test_our_masks_are_those_of_prune(problem: LinearProblem) -> None:
    sparse = our_peers([0.875])[0].build(problem)
    assert sparse.weight is not None
    kept = (sparse.weight != 0).view(48, 3, 32).sum(-1)
    assert (kept == 4).all()
    assert sparse.config["kept weights"] == 48 * 12
    assert sparse.config["kernel"] == "windowed"
    assert our_peers([])[0].build(problem).config["kernel"] == "dense"


def test_output_error_sees_a_wrong_engine(problem: LinearProblem) -> None:
    def output(index: int) -> torch.Tensor:
        return problem.reference(index).float() * (1.1 if index == 3 else 1.0)

    wrong = Engine("x 1", lambda: None, output)
    assert 0.03 < output_error(wrong, problem) < 0.07


@pytest.mark.parametrize(
    ("sparsity", "name"), [(0.5, "16:32"), (0.75, "8:32"), (0.875, "4:32"), (31 / 32, "1:32")]
)
def test_sparsity_names_a_pattern(sparsity: float, name: str) -> None:
    assert str(pattern_of(sparsity)) == name


@pytest.mark.parametrize("sparsity", [0.0, 1.0, 0.9, -0.5, 2.0])
def test_other_sparsities_are_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match="must be a multiple of 1/32"):
        pattern_of(sparsity)


def test_a_missing_package_is_named_with_the_remedy(
    problem: LinearProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("onnx", "onnx.helper", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, module, None)
    for peer in [*onnx_runtime_peers(), *openvino_peers()]:
        with pytest.raises(PeerMissingError, match=r"not installed, pip install 'sparsekd\[bench"):
            peer.build(problem)


def test_dynamic_int8_leaves_the_model_and_warns_of_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    made = dynamic_int8(model)
    assert isinstance(model[0], nn.Linear)
    assert not isinstance(made[0], nn.Linear)
    assert made(torch.ones(2, 8)).shape == (2, 8)
