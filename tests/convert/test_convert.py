"""convert: what is replaced, what stays, what is refused, and what the report says."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from convert_models import Net, mask_, mlp
from torch import nn

from sparsekd.convert import FusedActivation, convert, to_float
from sparsekd.nn import Linear
from sparsekd.prune import prune_
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import NM, Bf16, Fp32, Int8, Unstructured

# --- schemes, kernels, masks --------------------------------------------------------------------


def test_auto_leaves_float_layers_without_zeros_and_says_why():
    model = mlp()
    converted = convert(model)
    assert [type(m) for m in converted] == [nn.Linear, nn.ReLU, nn.Linear]
    row = converted.sparsekd_report["0"]
    assert row.kernel == "torch"
    assert "0% of the weights are zero (not measured): too few for a sparse fp32" in row.reason
    x = torch.randn(3, 40)
    assert torch.equal(converted(x), model(x))


def test_auto_runs_float_layers_with_zeros_in_fp32_and_never_in_int8():
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    mask_(model[0], NM(4, 16))
    prepare_(model, Int8(), include=["2"])
    converted = convert(model.eval())
    assert [layer.scheme for layer in (converted[0], converted[2])] == [Fp32(16), Int8()]
    assert converted[0].activation == "relu"


def test_a_kernel_that_fp32_has_not_leaves_float_layers_unless_fp32_was_asked_for():
    model = mlp()
    prepare_(model, Int8(), include=["0"])
    converted = convert(model.eval(), kernel="dense")
    assert converted[0].kernel == "dense"
    assert "'dense' does not go with scheme 'fp32'" in converted.sparsekd_report["2"].reason
    with pytest.raises(ValueError, match="'dense' does not go with scheme 'fp32'"):
        convert(model, kernel="dense", scheme="fp32")


@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize("kernel", ["windowed", "dense", "auto"])
def test_a_fake_quantized_model_converts_by_its_own_scheme_to_equal_bits(activations, kernel):
    model, x = mlp(), torch.randn(9, 40)
    mask_(model[0], NM(8, 32))
    prepare_(model, Int8(activations))
    if activations == "static":
        calibrate(model, [x])
    model.eval()
    converted = convert(model, kernel=kernel)
    assert [layer.scheme.activations for layer in (converted[0], converted[2])] == [activations] * 2
    assert torch.equal(converted(x), model(x))


@pytest.mark.parametrize("order", ["prune first", "prepare first"])
def test_pruned_layers_convert_with_their_masks_and_without_their_hooks(order):
    model, x = mlp(), torch.randn(9, 40)
    if order == "prune first":
        prune_(model, NM(4, 32))
    prepare_(model)
    if order == "prepare first":
        prune_(model, NM(4, 32))
    model.eval()
    converted = convert(model)
    assert (converted[0].kernel, converted[0].activation) == ("windowed", "relu")
    assert not converted[0]._forward_pre_hooks
    assert torch.equal(converted(x), model(x))
    assert model[0]._forward_pre_hooks  # the trained model still holds its masks


def test_the_layers_own_scheme_wins_over_the_one_asked_for():
    model = mlp()
    prepare_(model, Int8(), include=["0"])
    converted = convert(model, scheme=Int8(observer="percentile"))
    assert converted[0].scheme == Int8()
    assert converted[2].scheme == Int8(observer="percentile")


@pytest.mark.parametrize(
    ("pattern", "kernel"),
    [
        (NM(4, 32), "windowed"),
        (NM(16, 32), "windowed"),
        (NM(20, 32), "dense"),
        (Unstructured(0.9), "windowed"),
        (Unstructured(0.55), "dense"),  # 45 % kept, but an arbitrary mask pads
    ],
)
def test_auto_chooses_by_the_packed_size(pattern, kernel):
    model = nn.Sequential(nn.Linear(256, 64))
    mask_(model[0], pattern)
    converted = convert(model, scheme="int8")
    row = converted.sparsekd_report["0"]
    assert converted[0].kernel == row.kernel == kernel
    assert "not measured" in row.reason
    assert row.sparsity == pytest.approx(1 - pattern.density, abs=0.02)


def test_masks_are_applied_even_where_weights_have_crept_back():
    layer = nn.Linear(64, 16)
    mask_(layer, NM(4, 32))
    layer.weight.add_(1.0)
    before = layer.weight.clone()
    converted = convert(nn.Sequential(layer), scheme="int8")
    assert torch.equal(layer.weight, before)
    assert torch.equal(converted[0].int_weight().ne(0), layer.weight_mask)


def test_kernel_torch_leaves_layers_and_needs_leave_to_leave_int8():
    model = mlp()
    with pytest.raises(ValueError, match="allow_float=True"):
        convert(model, scheme="int8", kernel="torch")
    converted = convert(model, scheme="int8", kernel="torch", allow_float=True)
    assert type(converted[0]) is nn.Linear
    assert "float although int8 was asked for" in converted.sparsekd_report["0"].reason
    prepare_(model, Int8())
    kept = convert(model, kernel="torch")
    assert kept.sparsekd_report["0"].reason == "kernel='torch' leaves it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kernel": "coo"},
            "unknown kernel 'coo'; choose one of auto, windowed, dense, depthwise,",
        ),
        (
            {"scheme": "int8", "kernel": "csr"},
            "kernel 'csr' does not go with scheme 'int8', which has windowed, dense, depthwise",
        ),
        (
            {"scheme": "fp32", "kernel": "dense"},
            "'dense' does not go with scheme 'fp32', which has windowed, csr, depthwise",
        ),
        ({"scheme": Bf16(), "kernel": "csr"}, "scheme 'bf16', which has windowed"),
        ({"scheme": "int8", "kernel": "depthwise"}, "layer '0': kernel 'depthwise' serves conv"),
        ({"scheme": "int4"}, "unknown scheme 'int4'; choose one of 'auto', 'int8', 'int8:"),
        ({"scheme": 8}, "unknown scheme 8"),
        ({"scheme": "int8:static"}, "layer '0': static activations need calibrated ranges"),
        ({"scheme": Int8("static")}, "layer '0': static activations need calibrated ranges"),
        ({"scheme": "int8", "include": "nope*"}, "'nope\\*' matches no layer"),
    ],
)
def test_bad_arguments_are_refused_with_the_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        convert(mlp(), **arguments)


def test_a_model_that_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"convert needs an nn\.Module, got list"):
        convert([nn.Linear(3, 3)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(bad):
    model = mlp()
    model[2].weight[3, 5] = bad
    with pytest.raises(ValueError, match="layer '2'"):
        convert(model, scheme="int8")


def test_include_and_exclude():
    converted = convert(mlp(), scheme="int8", exclude="2")
    assert isinstance(converted[0], Linear)
    assert converted.sparsekd_report["2"].reason == "left out by include or exclude"
    converted = convert(mlp(), scheme="int8", include=["2"])
    assert type(converted[0]) is nn.Linear
    assert type(converted[1]) is nn.ReLU
    assert isinstance(converted[2], Linear)


# --- what stays, what is refused ----------------------------------------------------------------


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def extra_parameter() -> nn.Linear:
    layer = nn.Linear(8, 8)
    layer.register_parameter("lora", nn.Parameter(torch.zeros(3)))
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Doubled(8, 8), "Doubled is a subclass of nn.Linear"),
        (nn.Linear(8, 8, dtype=torch.bfloat16), "are bfloat16; the engine takes float32"),
        (nn.Linear(8, 8, device="meta"), "are on meta; the engine runs on the CPU"),
        (extra_parameter(), "holds more than a weight and a bias: lora"),
    ],
)
def test_layers_that_the_engine_can_not_stand_for_stay_with_a_reason(layer, reason):
    converted = convert(nn.Sequential(nn.Linear(8, 8), layer), scheme="int8")
    assert isinstance(converted[0], Linear)
    assert type(converted[1]) is type(layer)
    row = converted.sparsekd_report["1"]
    assert row.kernel == "torch"
    assert reason in row.reason


def test_layers_whose_weight_a_torch_parent_reads_stay():
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    converted = convert(model, scheme="int8")
    x = torch.randn(2, 5, 16)
    assert torch.equal(converted(x), model(x))
    report = converted.sparsekd_report
    assert "MultiheadAttention reads its weight" in report["self_attn.out_proj"].reason
    assert "TransformerEncoderLayer reads its weight" in report["linear1"].reason


def test_a_layer_whose_weight_the_forward_code_reads_stays():
    model, x = Net(lambda m, x: F.linear(m.act(m.a(x)), m.b.weight)), torch.randn(3, 8)
    converted = convert(model, x, scheme="int8")
    assert isinstance(converted.a, Linear)
    assert converted.sparsekd_report["b"].reason == "the forward code reads its weight by itself"


@pytest.mark.parametrize("inplace", [False, True])
def test_example_inputs_find_a_weight_that_is_read_where_tracing_fails(inplace):
    def forward(m, x):
        h = m.act(m.a(x))
        return F.linear(h, m.b.weight) if bool(h.sum() > -1) else h

    model = Net(forward).train()
    with pytest.raises(RuntimeError, match=r"fails on the example inputs \(AttributeError"):
        convert(model, torch.randn(3, 8), scheme="int8", inplace=inplace)
    assert [type(m) for m in model.children()] == [nn.Linear, nn.Linear, nn.ReLU]
    assert all(m.training for m in model.modules())
    converted = convert(model, torch.randn(3, 8), scheme="int8", exclude="b", inplace=inplace)
    assert isinstance(converted.a, Linear)


def test_example_inputs_may_be_a_tuple_or_a_dict():
    model = Net(lambda m, x: m.a(x))
    for inputs in (torch.randn(2, 8), (torch.randn(2, 8),), {"x": torch.randn(2, 8)}):
        assert isinstance(convert(model, inputs, scheme="int8").a, Linear)


class OwnHook:
    sparsekd_hook = True

    def __call__(self, *args):
        return None


ATTACH = {
    "forward hook": lambda m, hook: m.register_forward_hook(hook),
    "forward pre-hook": lambda m, hook: m.register_forward_pre_hook(hook),
    "backward hook": lambda m, hook: m.register_full_backward_hook(hook),
    "backward pre-hook": lambda m, hook: m.register_full_backward_pre_hook(hook),
    "state_dict hook": lambda m, hook: m.register_state_dict_post_hook(hook),
    "state_dict pre-hook": lambda m, hook: m.register_state_dict_pre_hook(hook),
    "load_state_dict pre-hook": lambda m, hook: m.register_load_state_dict_pre_hook(hook),
    "load_state_dict post-hook": lambda m, hook: m.register_load_state_dict_post_hook(hook),
}


@pytest.mark.parametrize("what", ATTACH)
def test_foreign_hooks_on_a_layer_are_refused_by_name_and_own_ones_dropped(what):
    model = mlp()
    ATTACH[what](model[2], OwnHook())
    assert isinstance(convert(model, scheme="int8")[2], Linear)

    def foreign(*args):
        return None

    ATTACH[what](model[2], foreign)
    with pytest.raises(ValueError, match=rf"replacing '2' \({what}\) would drop"):
        convert(model, scheme="int8")
    assert isinstance(convert(model, scheme="int8", exclude="2")[0], Linear)


def test_parametrizations_and_replaced_forwards_are_refused_by_name():
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(ValueError, match=r"'0' \(.*parametrization\)"):
        convert(model, scheme="int8")
    model = mlp()
    model[0].forward = lambda x: x
    with pytest.raises(ValueError, match=r"'0' \(forward replaced on the instance\)"):
        convert(model, scheme="int8")


def test_an_activation_with_a_foreign_hook_stays():
    model, seen = mlp(), []
    model[1].register_forward_hook(lambda *a: seen.append(1))
    converted = convert(model, scheme="int8")
    assert (converted[0].activation, type(converted[1])) == (None, nn.ReLU)
    converted(torch.randn(2, 40))
    assert seen == [1]


# --- shared and tied ----------------------------------------------------------------------------


def test_a_module_under_two_names_stays_one_module():
    layer = nn.Linear(8, 8)
    converted = convert(nn.Sequential(layer, nn.ReLU(), layer), scheme="int8")
    assert isinstance(converted[0], Linear)
    assert converted[0] is converted[2]
    assert converted[0].activation is None


@pytest.mark.parametrize("kernel", ["windowed", "dense"])
def test_tied_layers_share_their_packed_buffers(kernel):
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU()).eval()
    model[2].weight = model[0].weight
    x = torch.randn(4, 8)
    converted = convert(model, scheme="int8", kernel=kernel)
    packed = "values" if kernel == "windowed" else "panels"
    assert getattr(converted[0], packed) is getattr(converted[2], packed)
    assert converted[0].scale is converted[2].scale
    assert converted[0].bias is not converted[2].bias
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0.05)
    back = to_float(converted)
    assert back[0].weight is back[2].weight
    assert back[0].bias is not back[2].bias


def test_ties_that_can_not_hold_are_refused_by_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
            self.head.weight = self.emb.weight

        def forward(self, x):
            return self.head(self.emb(x))

    with pytest.raises(ValueError, match=r"layer 'head': its weight is tied to 'emb\.weight'"):
        convert(Tied(), scheme="int8")
    kept = convert(Tied(), scheme="int8", exclude="head")
    assert kept.head.weight is kept.emb.weight

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    model[1].register_buffer("weight_mask", NM(1, 4).mask(model[0].weight.abs()))
    with pytest.raises(ValueError, match="'0' and '1' share one weight but pack differently"):
        convert(model, scheme="int8")


# --- the model around ---------------------------------------------------------------------------


def test_convert_works_on_a_copy_in_eval_mode():
    model = mlp().train()
    before = copy.deepcopy(model.state_dict())
    converted = convert(model, scheme="int8")
    assert not any(m.training for m in converted.modules())
    assert all(m.training for m in model.modules())
    assert [type(m) for m in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_inplace_changes_the_model_itself():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.LayerNorm(8))
    norm = model[1]
    assert convert(model, scheme="int8", inplace=True) is model
    assert isinstance(model[0][0], Linear)
    assert isinstance(model[0][1], FusedActivation)
    assert model[1] is norm


def test_a_lone_layer_converts_but_not_in_place():
    layer = nn.Linear(8, 8)
    converted = convert(layer, scheme="int8")
    assert isinstance(converted, Linear)
    assert converted.sparsekd_report[""].kernel == "dense"
    with pytest.raises(ValueError, match="can not happen in place"):
        convert(layer, scheme="int8", inplace=True)


def test_layers_held_outside_the_module_tree_are_replaced_too():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.chain = [self.a, self.b]

        def forward(self, x):
            return self.chain[1](self.chain[0](x))

    converted = convert(Listed(), scheme="int8")
    assert converted.chain[0] is converted.a
    assert isinstance(converted.a, Linear)


def test_a_model_that_can_not_be_copied_is_refused_with_the_remedy():
    model = mlp()
    model.generator = itertools.count()
    model.lock = (i for i in range(3))
    with pytest.raises(TypeError, match=r"can not be deep-copied .*; pass inplace=True"):
        convert(model, scheme="int8")
    assert isinstance(convert(model, scheme="int8", inplace=True)[0], Linear)


def test_every_leaf_has_a_row_and_the_report_prints():
    model = nn.Sequential(
        mlp(), nn.LayerNorm(7), nn.Dropout(), nn.MultiheadAttention(7, 1), nn.Identity()
    )
    report = convert(model, scheme="int8").sparsekd_report
    leaves = [name for name, m in model.named_modules() if not m._modules]
    assert {row.name for row in report.rows} == {*leaves, "3"}
    assert report["0.1"].kernel == "fused"
    assert report["0.1"].reason == "runs in '0.0'"
    assert report["1"].reason == "no engine kernel for LayerNorm"
    text = str(report)
    assert all(name in text for name in leaves)
    assert json.loads(json.dumps(report.to_dict()))["rows"][0]["kernel"] == "dense"
    with pytest.raises(KeyError, match="no row named 'zz'"):
        report["zz"]


def test_converting_twice_changes_nothing_more():
    once = convert(mlp(), scheme="int8")
    twice = convert(once, scheme="int8")
    x = torch.randn(3, 40)
    assert torch.equal(once(x), twice(x))
    assert twice.sparsekd_report["0"].reason == "already an engine layer"
    assert twice.sparsekd_report["1"].kernel == "fused"
