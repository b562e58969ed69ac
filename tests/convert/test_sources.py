"""convert: weights that are sparse tensors, or pruned with torch's own tools."""

from __future__ import annotations

import copy

import pytest
import torch
from convert_models import mlp, small_cnn
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from sparsekd.convert import FoldedNorm, convert, to_float
from sparsekd.nn import Conv2d, Linear
from sparsekd.numerics import quantize_weight
from sparsekd.quantize import prepare_
from sparsekd.spec import Fp32, Unstructured
from sparsekd.verify import verify


def sparse_linear(sparsity: float = 0.96, layout: str = "csr") -> nn.Linear:
    layer = nn.Linear(64, 32)
    weight = layer.weight * Unstructured(sparsity).mask(layer.weight.abs())
    make = {"csr": weight.to_sparse_csr, "csc": weight.to_sparse_csc, "coo": weight.to_sparse}
    layer.weight = nn.Parameter(make[layout](), requires_grad=False)
    return layer


# torch says once a process that CSR is in beta.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse")


@pytest.mark.parametrize(("scheme", "kernel"), [("fp32", "csr"), ("int8", "windowed")])
@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
def test_sparse_parameters_convert(scheme, kernel, layout):
    model, x = nn.Sequential(sparse_linear(layout=layout), nn.ReLU()), torch.randn(5, 64)
    dense = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
    dense[0].weight.copy_(model[0].weight.to_dense())
    dense[0].bias.copy_(model[0].bias)
    converted = convert(model, scheme=scheme)
    assert (converted[0].kernel, converted[0].activation) == (kernel, "relu")
    assert converted.sparsekd_report["0"].sparsity == pytest.approx(0.96, abs=0.01)
    assert verify(converted, dense, x, bound=0.05).ok
    if layout == "csr":
        assert verify(converted, model, x, bound=0.05).ok
    assert model[0].weight.layout is not torch.strided
    assert to_float(converted)[0].weight.layout is torch.strided


def test_csr_is_kept_where_there_are_too_few_zeros_for_windowed():
    converted = convert(nn.Sequential(sparse_linear(0.3)), scheme="fp32")
    assert converted[0].kernel == "csr"
    assert "its weight is a sparse tensor" in converted.sparsekd_report["0"].reason


def test_a_sparse_parameter_runs_in_fp32_under_scheme_auto_or_stays_as_it_is():
    model, x = nn.Sequential(sparse_linear(), nn.ReLU()), torch.randn(5, 64)
    converted = convert(model)
    assert (converted[0].kernel, converted[0].scheme) == ("csr", Fp32())
    assert verify(converted, model, x).ok
    assert model[0].weight.layout is torch.sparse_csr
    left = convert(model, exclude="0")
    assert left[0].weight.layout is torch.sparse_csr
    assert torch.equal(left(x), model(x))


def test_a_sparse_parameter_is_measured_without_torchs_dense_layer():
    converted = convert(nn.Sequential(sparse_linear(0.3), nn.ReLU()), torch.randn(5, 64))
    choice = converted.sparsekd_report.tuning["0"]
    assert {figure.kernel for figure in choice.figures} == {"csr", "windowed"}
    assert converted[0].kernel == choice.kernel


def test_a_weight_that_is_a_plain_tensor_converts():
    model, x = mlp(), torch.randn(3, 40)
    wanted = convert(model, scheme="int8")
    weight = model[0].weight.detach().clone()
    del model[0].weight
    model[0].weight = weight
    assert torch.equal(convert(model, x, scheme="int8")(x), wanted(x))


# --- torch.nn.utils.prune -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["l1", "global", "custom", "bias", "structured"])
@pytest.mark.parametrize("inplace", [False, True])
def test_layers_pruned_by_torch_convert_with_their_masks(how, inplace):
    model, x = mlp(), torch.randn(4, 40)
    first = model[0]
    if how == "l1":
        prune.l1_unstructured(first, "weight", 0.5)
        prune.l1_unstructured(first, "weight", 0.5)  # a PruningContainer
    elif how == "global":
        both = [(first, "weight"), (model[2], "weight")]
        prune.global_unstructured(both, prune.L1Unstructured, amount=0.8)
    elif how == "custom":
        prune.custom_from_mask(first, "weight", torch.rand(33, 40) < 0.2)
    elif how == "bias":
        prune.random_unstructured(first, "bias", 0.5)
        prune.random_unstructured(first, "weight", 0.5)
    else:
        prune.ln_structured(first, "weight", 0.5, n=2, dim=0)
    first.weight_orig.add_(0.01)  # an optimizer's step after the last call
    wanted = model(x)
    original = copy.deepcopy(first.weight_orig)
    converted = convert(model, x, scheme="int8", inplace=inplace)
    assert isinstance(converted[0], Linear)
    integers, _ = quantize_weight(original * first.weight_mask)
    assert torch.equal(converted[0].int_weight(), integers)
    assert not converted[0]._forward_pre_hooks
    torch.testing.assert_close(converted(x), wanted, rtol=0, atol=0.05)
    if not inplace:  # the model is as it was
        assert first.weight_orig.eq(original).all()
        assert first._forward_pre_hooks
        assert verify(converted, model, x, bound=0.05).ok


def test_a_pruned_network_folds_its_batch_norms_and_holds_the_bound():
    model, x = small_cnn(), torch.randn(2, 3, 10, 10)
    prune.l1_unstructured(model.point[0], "weight", 0.9)
    model(x)
    converted = convert(model, x, scheme="fp32")
    assert isinstance(converted.point[0], Conv2d)
    assert isinstance(converted.point[1], FoldedNorm)
    report = verify(converted, model, x)
    assert report.ok, str(report)


def test_a_pruned_layer_that_is_fake_quantized_gives_equal_bits():
    model, x = mlp(), torch.randn(4, 40)
    prune.l1_unstructured(model[0], "weight", 0.7)
    prepare_(model)
    wanted = model.eval()(x)
    assert torch.equal(convert(model, x)(x), wanted)


def test_other_hooks_on_a_pruned_layer_are_still_refused():
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.7)
    model[0].register_forward_pre_hook(lambda *a: None)
    with pytest.raises(ValueError, match=r"replacing '0' \(forward pre-hook\) would drop"):
        convert(model, scheme="int8")


def test_a_pruned_layer_that_is_left_out_needs_inplace_since_torch_can_not_copy_it():
    model = mlp()
    with torch.enable_grad():
        prune.l1_unstructured(model[0], "weight", 0.7)
        with pytest.raises(TypeError, match="pass inplace=True"):
            convert(model, scheme="int8", exclude="0")
    converted = convert(model, torch.randn(2, 40), scheme="int8", exclude="0", inplace=True)
    assert converted[0]._forward_pre_hooks
    assert isinstance(converted[2], Linear)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_parametrizations_are_refused_with_the_remedy(kind):
    layer = nn.Linear(8, 8) if kind == "linear" else nn.Conv2d(4, 4, 3)
    model = nn.Sequential(layer)
    with torch.enable_grad():
        parametrizations.weight_norm(model[0])
    with pytest.raises(ValueError, match=r"parametrize\.remove_parametrizations\(layer, 'weight'"):
        convert(model, scheme="int8")
    parametrize.remove_parametrizations(model[0], "weight")
    assert isinstance(convert(model, scheme="int8")[0], (Linear, Conv2d))
