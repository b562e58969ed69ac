"""save and load: what goes in comes out, into any fit model, and nothing is half done."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from sparsekd.convert import FusedActivation, convert, to_float
from sparsekd.io import FileFormatError, load, save
from sparsekd.nn import Linear
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import NM, Int8


def test_a_loaded_model_computes_the_same_bits(path, converted, student):
    loaded = load(path, student())
    x = torch.randn(9, 40)
    assert torch.equal(loaded(x), converted(x))
    state = loaded.state_dict()
    assert state.keys() == converted.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in converted.state_dict().items())
    assert loaded.body[0].scheme == Int8("static")
    assert (loaded.body[0].kernel, loaded.body[2].kernel) == ("windowed", "dense")
    assert loaded.body[0].activation == "relu"
    assert isinstance(loaded.body[1], FusedActivation)
    assert not loaded.training


@pytest.mark.parametrize("kernel", ["windowed", "dense"])
@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize("act", [None, nn.ReLU, nn.GELU, nn.SiLU])
@pytest.mark.parametrize("bias", [True, False])
def test_every_kind_of_layer_round_trips(tmp_path, kernel, activations, act, bias):
    def architecture():
        return nn.Sequential(nn.Linear(37, 19, bias=bias), *([act()] if act else []))

    model, x = architecture(), torch.randn(6, 37)
    prepare_(model, Int8(activations, observer="percentile", percentile=99.5))
    if activations == "static":
        calibrate(model, [x])
    converted = convert(model, kernel=kernel)
    save(converted, tmp_path / "f")
    with torch.device("meta"):
        empty = architecture()
    loaded = load(tmp_path / "f", empty)
    assert torch.equal(loaded(x), converted(x))
    assert loaded[0].scheme == converted[0].scheme
    assert to_float(loaded)(x).shape == (6, 19)
    assert [type(m) for m in to_float(loaded)] == [type(m) for m in architecture()]


def test_a_model_on_meta_becomes_real(path, converted, student):
    with torch.device("meta"):
        empty = student()
    loaded = load(path, empty)
    assert loaded is empty
    assert not any(t.is_meta for t in [*loaded.parameters(), *loaded.buffers()])
    assert loaded.head.weight.requires_grad
    x = torch.randn(9, 40)
    assert torch.equal(loaded(x), converted(x))


def test_a_lone_layer_and_an_empty_model(tmp_path):
    layer = Linear.from_float(nn.Linear(8, 5), scheme=Int8(), kernel="dense")
    save(layer, tmp_path / "layer")
    loaded, x = load(tmp_path / "layer", nn.Linear(8, 5)), torch.randn(2, 8)
    assert torch.equal(loaded(x), layer(x))
    save(nn.Identity(), tmp_path / "empty")
    assert isinstance(load(tmp_path / "empty", nn.Identity()), nn.Identity)


def test_a_model_without_engine_layers_round_trips_with_all_its_state(tmp_path):
    def architecture():
        model = nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.Linear(5, 6).double())
        model.register_buffer("steps", torch.tensor(7))
        model.register_buffer("seen", torch.tensor([True, False]))
        model.register_buffer("empty", torch.randn(0, 3, dtype=torch.bfloat16))
        model.register_buffer("scratch", torch.randn(3), persistent=False)
        return model

    model, other = architecture(), architecture()
    other.steps.zero_()
    scratch = other.scratch.clone()
    save(model, tmp_path / "f")
    load(tmp_path / "f", other)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
        assert other.state_dict()[key].dtype == value.dtype
    assert torch.equal(other.scratch, scratch)


def test_loading_keeps_requires_grad_and_strides_do_not_matter(tmp_path):
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.randn(4, 3).t(), requires_grad=False)
    save(model, tmp_path / "f")
    other = nn.Linear(4, 3)
    load(tmp_path / "f", other)
    assert torch.equal(other.weight, model.weight)
    assert other.weight.requires_grad
    frozen = nn.Linear(4, 3).requires_grad_(False)
    load(tmp_path / "f", frozen)
    assert not frozen.weight.requires_grad


def test_the_file_may_be_overwritten_and_saved_over_after_loading(path, converted, student):
    loaded, x = load(path, student()), torch.randn(3, 40)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert torch.equal(loaded(x), converted(x))
    save(loaded, path)
    again = load(path, student())
    save(again, path)
    assert torch.equal(load(path, again)(x), converted(x))  # filling an engine model once more


def test_equal_models_give_equal_files(tmp_path, converted):
    save(converted, tmp_path / "a")
    save(copy.deepcopy(converted), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_masks_are_applied_in_the_file(tmp_path):
    model = nn.Sequential(nn.Linear(32, 8))
    model[0].register_buffer("weight_mask", NM(4, 32).mask(model[0].weight.abs()))
    before = model[0].weight.clone()
    save(model, tmp_path / "f")
    assert torch.equal(model[0].weight, before)
    other = nn.Sequential(nn.Linear(32, 8))
    other[0].register_buffer("weight_mask", torch.zeros(8, 32, dtype=torch.bool))
    load(tmp_path / "f", other)
    assert torch.equal(other[0].weight.ne(0), model[0].weight_mask)
    assert torch.equal(other[0].weight_mask, model[0].weight_mask)


def test_nothing_is_pickled_or_unpickled(path, converted, student, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle")

    for module in (pickle, torch):
        for name in ("dump", "dumps", "load", "loads", "save", "Pickler", "Unpickler"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, refuse)
    save(converted, path)
    load(path, student())


# --- tied and shared ----------------------------------------------------------------------------


class Tied(nn.Module):
    """Two layers with one weight, a layer under two names, an embedding tied to a torch layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.again = self.c
        self.emb, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)
        self.head.weight = self.emb.weight

    def forward(self, x):
        return self.head(self.again(self.c(self.b(self.a(x)))) + self.emb.weight[0])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_ties_are_stored_once_and_stay(tmp_path, device):
    converted, x = convert(Tied(), scheme="int8", exclude="head"), torch.randn(3, 8)
    save(converted, tmp_path / "f")
    content = (tmp_path / "f").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert {"a.panels", "c.panels", "emb.weight"} <= header.keys()
    assert not {"b.panels", "again.panels", "head.weight"} & header.keys()
    with torch.device(device):
        model = Tied()
        if device == "meta":  # moving to meta must keep the tie, as building there does
            assert model.head.weight is model.emb.weight
    loaded = load(tmp_path / "f", model)
    assert loaded.a.panels is loaded.b.panels
    assert loaded.c is loaded.again
    assert loaded.head.weight is loaded.emb.weight
    assert torch.equal(loaded(x), converted(x))


def test_a_tie_of_the_file_must_be_one_of_the_model(tmp_path):
    save(convert(Tied(), scheme="int8", exclude="head"), tmp_path / "f")
    model = Tied()
    model.b.weight = nn.Parameter(torch.randn(8, 8))
    with pytest.raises(FileFormatError, match=r"ties 'b\.panels' to 'a\.panels', the model does"):
        load(tmp_path / "f", model)
    model = Tied()
    model.head.weight = nn.Parameter(torch.randn(9, 8))
    with pytest.raises(FileFormatError, match=r"ties 'head\.weight' to 'emb\.weight', the model"):
        load(tmp_path / "f", model)
    model = Tied()
    model.again = nn.Linear(8, 8)
    with pytest.raises(FileFormatError, match=r"ties 'again\.\w+' to 'c\.\w+', the model does"):
        load(tmp_path / "f", model)


def test_a_tie_of_the_model_must_be_one_of_the_file(tmp_path):
    untied = Tied()
    untied.head.weight = nn.Parameter(torch.randn(9, 8))
    save(untied, tmp_path / "f")
    with pytest.raises(FileFormatError, match=r"the model ties 'head\.weight' to 'emb\.weight'"):
        load(tmp_path / "f", Tied())


def test_a_shared_module_needs_an_entry_under_each_name(tmp_path):
    separate = Tied()
    separate.again = nn.Linear(8, 8)
    save(convert(separate, scheme="int8", include=["a", "b", "c"]), tmp_path / "f")
    with pytest.raises(FileFormatError, match="'again' is the same module as 'c' in the model"):
        load(tmp_path / "f", Tied())


def test_views_of_one_memory_are_no_tie(tmp_path):
    model, memory = nn.Module(), torch.randn(10)
    for name, view in {"a": memory[:6], "b": memory[4:], "c": memory}.items():
        model.register_buffer(name, view)
    save(model, tmp_path / "f")
    other = nn.Module()
    for name, size in {"a": 6, "b": 6, "c": 10}.items():
        other.register_buffer(name, torch.zeros(size))
    load(tmp_path / "f", other)
    assert torch.equal(other.a, memory[:6])
    assert torch.equal(other.b, memory[4:])
    other.c.zero_()
    assert torch.equal(other.a, memory[:6])


# --- what save refuses --------------------------------------------------------------------------


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"any": "thing"}


def with_buffer(name: str, tensor: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.register_buffer(name, tensor)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Extra(3, 3), "'_extra_state' is a dict; a file holds tensors only"),
        (nn.Linear(3, 3, device="meta"), "'weight' is on 'meta' and has no data"),
        (with_buffer("a", torch.eye(3).to_sparse()), "'a' is not a plain dense tensor"),
        (with_buffer("a", torch.zeros(2, dtype=torch.complex64)), "'a' has dtype torch.complex64"),
        (nn.ModuleDict({"x/y": nn.Linear(3, 3)}), "'x/y.weight' has a slash"),
        (nn.ModuleDict({"x\n": nn.Linear(3, 3)}), "can not be printed"),
    ],
)
def test_save_refuses_what_load_would_not_take_and_writes_nothing(tmp_path, model, message):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        save(model, path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_fused_activation_without_its_layer_is_refused(tmp_path, converted):
    model = copy.deepcopy(converted)
    model.body[0] = nn.Linear(40, 33)
    with pytest.raises(ValueError, match=r"'body\.1' was fused into a layer that is no longer"):
        save(model, tmp_path / "f")


# --- what load refuses of the model -------------------------------------------------------------


def refused(path, model, snapshot_of, message):
    before = snapshot_of(model)
    with pytest.raises(ValueError, match=message):
        load(path, model)
    assert snapshot_of(model) == before


def test_models_that_do_not_fit_are_refused_by_name_and_left_alone(path, student, snapshot_of):
    def changed(name, module):
        model = student()
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, module)
        return model

    cases = [
        (changed("body.0", nn.Linear(40, 32)), r"layer 'body\.0' has out_features=33 in the file"),
        (
            changed("body.0", nn.Linear(40, 33, bias=False)),
            r"bias=True in the file and bias=False in the",
        ),
        (changed("body.0", nn.Tanh()), r"layer 'body\.0' of the file is a Tanh in the model"),
        (changed("body", nn.Sequential()), r"layer 'body\.0' of the file is not in the model"),
        (changed("body.1", nn.GELU()), r"'body\.0' runs the relu at 'body\.1', where .* GELU"),
        (changed("norm", nn.LayerNorm(20)), r"model has no 'norm\.num_batches_tracked', 'norm\.r"),
        (changed("more", nn.Linear(2, 2)), r"the file lacks 'more\.bias', 'more\.weight'"),
        (changed("head", nn.Linear(20, 6)), r"'head\.weight' is .* \(5, 20\) in .* \(6, 20\) in"),
        (changed("head", nn.Linear(20, 5).double()), r"float32 \(5, 20\) .*float64 \(5, 20\) in"),
        (changed("head", nn.LazyLinear(5)), r"'head\.weight' is lazy"),
        (changed("head", Extra(20, 5)), r"the file lacks 'head\._extra_state'"),
    ]
    for model, message in cases:
        refused(path, model, snapshot_of, message)


def test_a_meta_tensor_that_no_file_fills_is_refused(path, student, snapshot_of):
    with torch.device("meta"):
        model = student()
        model.norm.register_buffer("table", torch.zeros(3), persistent=False)
    refused(path, model, snapshot_of, r"'norm\.table' is on 'meta' and not part of the state")


def test_foreign_hooks_on_a_layer_to_be_replaced_are_refused(path, student, snapshot_of):
    model = student()
    model.body[2].register_forward_hook(lambda *a: None)
    refused(path, model, snapshot_of, r"replacing 'body\.2' \(forward hook\) would drop")


def test_an_activation_that_serves_others_too_is_refused(path, student, snapshot_of):
    model = student()
    model.other = model.body[1]
    refused(
        path, model, snapshot_of, r"the activation at 'body\.1' serves more than layer 'body\.0'"
    )


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_error_of_the_models_own_code_rolls_everything_back(path, student, snapshot_of, device):
    class HookError(Exception):
        pass

    def fail(*args):
        raise HookError

    with torch.device(device):
        model = student()
    model.head.register_load_state_dict_post_hook(fail)  # after body and norm were filled
    before = snapshot_of(model)
    with pytest.raises(HookError):
        load(path, model)
    assert snapshot_of(model) == before


def test_paths_that_are_no_file(tmp_path, student):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing", student())
    with pytest.raises(ValueError, match="not a regular file"):
        load("/dev/zero", student())
