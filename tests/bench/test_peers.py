"""The contenders of the comparison compute what they say."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from sparsekd.bench.linear import ERROR_BOUNDS
from sparsekd.bench.linear_problem import LinearProblem, output_error
from sparsekd.bench.onnx_runtime import onnx_runtime_peers
from sparsekd.bench.openvino_runtime import openvino_peers
from sparsekd.bench.ours import FORMATS, our_contenders, pattern_of
from sparsekd.bench.peers import Engine, PeerMissingError, dynamic_int8
from sparsekd.bench.runner import Contender
from sparsekd.bench.torch_runtime import torch_peers

OTHERS = [*torch_peers(), *onnx_runtime_peers(), *openvino_peers()]
ALL = [*our_contenders(FORMATS, [0.5, 0.875]), *OTHERS]


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
def test_each_engine_is_right_on_every_input(
    peer: Contender[LinearProblem], problem: LinearProblem
) -> None:
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
    built = {c.name: c.build(problem) for c in our_contenders(FORMATS, [0.875])}
    for name, group in {"int8 4:32": 32, "fp32-n16 2:16": 16, "bf16 4:32": 32}.items():
        sparse = built[f"sparsekd {name}"]
        assert sparse.weight is not None
        kept = (sparse.weight != 0).view(48, 96 // group, group).sum(-1)
        assert (kept == group // 8).all()
        assert sparse.config["kept weights"] == 48 * 12
        assert sparse.work == 48 * 12 * 5
        assert sparse.config["kernel"] == "windowed"
    csr = built["sparsekd csr unstructured:0.875"]
    assert csr.config["kernel"] == "csr"
    assert csr.weight is not None
    assert int((csr.weight != 0).sum()) == 48 * 12
    dense = built["sparsekd dense int8"]
    assert dense.config["kernel"] == "dense"
    assert dense.work == 48 * 96 * 5


def test_layers_are_packed_once_for_all_rows(problem: LinearProblem) -> None:
    contender = our_contenders(["int8"], [0.75])[0]
    contender.build(problem)
    wide = problem.with_inputs(9, threads=1)
    made = dict(wide.shared)
    assert contender.build(wide).output(0).shape == (9, 48)
    assert wide.shared == made
    assert wide.shared is problem.shared
    assert output_error(contender.build(wide), wide) < 0.05


def test_unknown_formats_and_sparsities_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown format 'int4'; choose among int8, dense"):
        our_contenders(["int4"])
    with pytest.raises(ValueError, match="no n:16 pattern"):
        our_contenders(["fp32-n16"], [31 / 32])
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        our_contenders(["csr"], [1.0])


def test_output_error_sees_a_wrong_engine(problem: LinearProblem) -> None:
    def output(index: int) -> torch.Tensor:
        return problem.reference(index).float() * (1.1 if index == 3 else 1.0)

    wrong = Engine("x 1", lambda: None, output)
    assert 0.03 < output_error(wrong, problem) < 0.07


@pytest.mark.parametrize("row", [0, 511])
def test_output_error_sees_a_wrong_row_at_either_end(row: int) -> None:
    many = LinearProblem.random(32, 16, 512, threads=1)

    def output(index: int) -> torch.Tensor:
        right = many.reference(index).float()
        right[row] = 0
        return right

    assert output_error(Engine("x 1", lambda: None, output), many) > 0.05


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
