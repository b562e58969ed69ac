"""A file is untrusted: what is wrong with it is refused by name, and the model stays as it was.

The hash is made to fit each change, so that validation alone is what is tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sparsekd.convert import convert
from sparsekd.io import FileFormatError, load, save
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import NM, Int8


@pytest.fixture
def refused(path, student, snapshot_of):
    """Asserts that the file at ``path`` is refused with a message and changes no model."""

    def check(message: str, **options) -> None:
        model = student()
        before = snapshot_of(model)
        with pytest.raises(FileFormatError, match=message) as error:
            load(path, model, **options)
        assert snapshot_of(model) == before
        text = str(error.value)
        assert text.startswith(repr(str(path)))
        assert "\n" not in text
        assert len(text) < 500 + len(str(path))

    return check


@pytest.fixture
def small(tmp_path) -> Path:
    """A file of one static windowed layer with ReLU."""
    model = nn.Sequential(nn.Linear(70, 18), nn.ReLU())
    mask = NM(2, 32).mask(model[0].weight.abs())
    model[0].register_buffer("weight_mask", mask)
    model[0].weight.mul_(mask)
    prepare_(model, Int8("static"))
    calibrate(model, [torch.randn(16, 70)])
    save(convert(model, kernel="windowed"), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_the_tools_of_these_tests_write_files_that_load(file, path, student, converted):
    file.write()
    x = torch.randn(3, 40)
    assert torch.equal(load(path, student())(x), converted(x))


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("check_hash", [True, False])
def test_truncation_at_every_byte_is_refused(small, check_hash):
    content, model = small.read_bytes(), nn.Sequential(nn.Linear(70, 18), nn.ReLU())
    cut = small.with_name("cut")
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match=r"cut off|JSON|safetensors|SHA-256"):
            load(cut, model, check_hash=check_hash)
    assert type(model[0]) is nn.Linear
    cut.write_bytes(content + b"\0")
    with pytest.raises(FileFormatError):
        load(cut, model, check_hash=check_hash)


@pytest.mark.parametrize("part", ["header", "indices"])
def test_every_flipped_bit_is_refused_or_runs_within_its_buffers(small, part):
    script = Path(__file__).with_name("flip_bits.py")
    run = subprocess.run(
        [sys.executable, str(script), str(small), part], capture_output=True, text=True, timeout=500
    )
    assert run.returncode == 0, run.stderr[-2000:]
    refused, loaded = map(int, run.stdout.split())
    if part == "header":
        content = small.read_bytes()
        assert refused + loaded == 8 * (8 + int.from_bytes(content[:8], "little"))
        # What loads: other digits of the hash and of the observer's percentile.
        assert loaded < 0.06 * refused
    else:
        keys = ("step_ptr", "steps", "positions", "input_zero_point")
        state = load(small, nn.Sequential(nn.Linear(70, 18), nn.ReLU()))[0].state_dict()
        assert refused + loaded == 8 * sum(state[key].nbytes for key in keys)
        # What loads: another zero point, and positions that still rise.
        assert loaded < 0.3 * refused


def test_every_damaged_data_byte_is_found_by_the_hash(small):
    content, model = small.read_bytes(), nn.Sequential(nn.Linear(70, 18), nn.ReLU())
    start = 8 + int.from_bytes(content[:8], "little")
    for place in range(start, len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        small.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"SHA-256 .* damaged or was altered"):
            load(small, model)


def test_the_hash_is_checked_unless_told_otherwise(file, path, student, refused):
    file.manifest["sha256"] = "0" * 64
    file.write(hash_=False)
    refused("SHA-256")
    load(path, student(), check_hash=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off"),
        (b"\xff" * 8, "cut off"),
        ((2**63).to_bytes(8, "little") + b"{}", "cut off"),
        ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
        ((2).to_bytes(8, "little") + b"{}", "no sparsekd manifest"),
        ((4).to_bytes(8, "little") + b"\xff\xfe{}", "not valid JSON"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "not valid JSON .*too deeply"),
        ((14).to_bytes(8, "little") + b'{"a":1,"a": 2}', "a key is repeated"),
        ((9).to_bytes(8, "little") + b'{"a":NaN}', "NaN is not a number of JSON"),
        (b"PK\x03\x04" + b"\0" * 4000, "."),  # a torch.save file
    ],
)
def test_what_is_no_such_file_is_refused(path, refused, content, message):
    path.write_bytes(content)
    refused(message)


def test_metadata_of_others_is_refused(file, refused):
    file.write(metadata={"format": "pt"})
    refused("no sparsekd manifest")
    file.write(metadata={"sparsekd": json.dumps(file.manifest), "format": "pt"})
    refused("unknown metadata 'format'")
    file.write(metadata={"sparsekd": 3})
    refused("no sparsekd manifest")


# --- the manifest -------------------------------------------------------------------------------

LAYER = ("layers", "body.0")
SCHEME = (*LAYER, "scheme")
MANIFEST = [
    (("format",), "other", "does not say format 'sparsekd'"),
    (("version",), 2, "format version 2, this sparsekd reads version 1"),
    (("version",), "1", "format version '1'"),
    (("version",), True, "format version True"),
    (("sha256",), "xyz", "'sha256'"),
    (("extra",), 1, "'extra': Extra inputs are not permitted, got 1"),
    (("layers",), [], "'layers'"),
    ((*LAYER, "color"), "red", r"'layers\.body\.0\.color': Extra inputs are not permitted"),
    ((*LAYER, "kind"), "conv3d", r"'layers\.body\.0': .*'conv3d' .* 'linear', 'conv1d', 'conv2d'"),
    ((*LAYER, "kind"), "conv2d", r"'layers\.body\.0\.in_channels': Field required"),
    ((*LAYER, "kernel"), "coo", r"'layers\.body\.0\.kernel': Input should be 'windowed', 'dense',"),
    (
        (*LAYER, "kernel"),
        "csr",
        r"'layers\.body\.0': unknown kernel 'csr' for int8; choices are: w",
    ),
    ((*LAYER, "kernel"), "depthwise", r"layer 'body\.0': kernel 'depthwise' serves convolutions"),
    (
        (*LAYER, "kernel"),
        "dense",
        r"lacks 'body\.0\.panels'; the model has no 'body\.0\.positions'",
    ),
    ((*SCHEME, "name"), "int4", r"body\.0\.scheme': .*'int4' .* 'int8', 'fp32', 'bf16'"),
    ((*SCHEME, "name"), "bf16", r"body\.0\.scheme\.activations': Extra inputs"),
    (SCHEME, {"name": "bf16"}, r"lacks 'body\.0\.positions'|model has no 'body\.0\.input_scale'"),
    (SCHEME, {"name": "fp32", "window": 24}, r"scheme\.window': Input should be 16 or 32, got 24"),
    (SCHEME, {"name": "fp32", "window": None}, r"body\.0': kernel 'windowed' needs a window"),
    (SCHEME, {"name": "fp32"}, r"scheme\.window': Field required"),
    (SCHEME, "int8", r"body\.0\.scheme': "),
    ((*SCHEME, "activations"), "none", r"activations': Input should be 'dynamic' or 'static'"),
    ((*SCHEME, "activations"), "dynamic", r"model has no 'body\.0\.input_scale'"),
    ((*SCHEME, "observer"), "mean", r"observer': Input should be 'minmax' or 'percentile'"),
    ((*SCHEME, "percentile"), 1e400, "not a number of JSON|percentile"),
    ((*SCHEME, "percentile"), 10.0, r"percentile': Input should be greater than or equal to 50"),
    ((*SCHEME, "bits"), 4, r"scheme\.bits': Extra inputs"),
    ((*LAYER, "activation"), "tanh", r"activation': Input should be 'relu', 'relu6',"),
    ((*LAYER, "activation"), "gelu", r"runs the gelu at 'body\.1', where the model has ReLU"),
    ((*LAYER, "activation"), None, "names an activation_module without an activation"),
    ((*LAYER, "activation_module"), "body.9", r"at 'body\.9', where the model has no module"),
    ((*LAYER, "activation_module"), "", r"relu at '', where the model has Student"),
    ((*LAYER, "activation_module"), "..", "has an empty part"),
    (
        (*LAYER, "norm_module"),
        "norm.x",
        r"'body\.0' holds the BatchNorm at 'norm\.x', .* no module",
    ),
    ((*LAYER, "norm_module"), "norm", r"at 'norm', where the model has BatchNorm1d\(20, "),
    ((*LAYER, "norm_module"), "head", r"at 'head', where the model has Linear\("),
    ((*LAYER, "norm_module"), "a/b", "has a slash"),
    ((*LAYER, "in_features"), -1, "in_features': Input should be greater than or equal to 0"),
    ((*LAYER, "in_features"), 2**40, "in_features': Input should be less than or equal to"),
    ((*LAYER, "in_features"), 40.0, "in_features': Input should be a valid integer"),
    ((*LAYER, "in_features"), "40", "in_features': Input should be a valid integer"),
    ((*LAYER, "in_features"), 39, r"'body\.0' has in_features=39 in the file and in_features=40"),
    ((*LAYER, "out_features"), 2**31 - 1, r"has out_features=2147483647 in the file and out_f"),
    ((*LAYER, "bias"), False, r"has bias=False in the file and bias=True"),
    ((*LAYER, "bias"), 1, "bias': Input should be a valid boolean"),
    (("tied",), {"head.bias": "nothing"}, "'head.bias' is stored and also tied to 'nothing'"),
    (("tied",), {"body.4": "nothing"}, "'body.4' is tied to 'nothing', which is not stored"),
    (("tied",), {"body.4": "body.4"}, "'body.4' is tied to 'body.4', which is not stored"),
    (("tied",), {"body.4": "head.bias"}, r"the model has no 'body\.4'"),
    (("tied",), {"a/b": "head.bias"}, "has a slash"),
]


@pytest.mark.parametrize(("place", "value", "message"), MANIFEST)
def test_a_wrong_manifest_field_is_refused_by_name(file, refused, place, value, message):
    entry = file.manifest
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    file.write(hash_=place != ("sha256",))
    refused(message)


@pytest.mark.parametrize(
    "place", [("format",), ("version",), ("sha256",), ("layers",), ("tied",), (*LAYER, "bias")]
)
def test_a_missing_manifest_field_is_refused_by_name(file, refused, place):
    entry = file.manifest
    for key in place[:-1]:
        entry = entry[key]
    del entry[place[-1]]
    file.write(hash_=False)
    refused("Field required|does not say format|version None")


@pytest.mark.parametrize(
    "name", ["body..0", "..", "body/0", "/etc/passwd", "a\\b", "x\0", "n" * 2000]
)
def test_layer_and_tensor_names_must_be_names_of_modules(file, refused, name):
    file.manifest["layers"][name] = file.manifest["layers"]["body.0"]
    file.write()
    refused("empty part|slash|printed|at most 1024")
    del file.manifest["layers"][name]
    file.put(f"{name}.weight", np.zeros(3, np.float32))
    file.write()
    refused("tensor .*(empty part|slash|printed|at most 1024)")


def test_a_layer_that_the_model_lacks_or_that_is_no_linear(file, refused):
    file.manifest["layers"]["body.7"] = file.manifest["layers"]["body.0"]
    file.write()
    refused("layer 'body.7' of the file is not in the model")
    del file.manifest["layers"]["body.7"]
    file.manifest["layers"]["norm"] = file.manifest["layers"]["body.0"]
    file.write()
    refused("layer 'norm' of the file is a BatchNorm1d in the model")


def test_a_layer_that_the_manifest_does_not_name(file, refused):
    del file.manifest["layers"]["body.2"]
    file.write()
    refused(r"the file lacks 'body\.2\.weight'; the model has no 'body\.2\.panels'")


def test_two_layers_on_one_tensor_are_refused(file, refused):
    for key in ("values", "positions", "steps", "step_ptr", "scale"):
        file.drop(f"body.0.{key}")
        file.manifest["tied"][f"body.0.{key}"] = f"body.2.{key}"
    file.manifest["layers"]["body.2"]["kernel"] = "windowed"
    file.write()
    refused("which is not stored")
    file.manifest["tied"] = {"body.2.bias": "body.0.bias"}
    file.drop("body.2.bias")
    file.write()
    refused(r"'body\.0\.values'|\(20,\)|shape|ties")


def test_two_tensors_on_one_place_are_refused(path, refused):
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["body.2.scale"]["data_offsets"] = header["body.2.bias"]["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    refused("not a valid safetensors file")


# --- tensors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["body.0.values", "body.0.step_ptr", "body.2.panels", "norm.weight", "head.bias"]
)
def test_missing_renamed_and_added_tensors_are_refused_by_name(file, refused, name):
    file.rename(name, name + "x")
    file.write()
    refused(rf"(lacks|tensors) .*'{name}'.*'{name}x'".replace(".", r"\.").replace(r"\.*", ".*"))
    file.drop(name + "x")
    file.write()
    refused(f"the file lacks '{name}'")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("body.0.values", "uint8"),
        ("body.0.positions", "int8"),
        ("body.0.steps", "int8"),
        ("body.0.step_ptr", "int32"),
        ("body.0.scale", "int32"),
        ("body.0.bias", "int32"),
        ("body.0.input_scale", "int32"),
        ("body.0.input_zero_point", "float32"),
        ("body.2.panels", "uint8"),
        ("head.weight", "int32"),
        ("norm.num_batches_tracked", "int32"),
    ],
)
def test_another_dtype_is_refused_by_name(file, refused, name, dtype):
    file.change(name, lambda array: array.astype(dtype))
    file.write()
    refused(f"tensor '{name}' is torch.{dtype}")


@pytest.mark.parametrize("name", ["body.0.values", "body.0.steps", "body.2.panels", "body.0.scale"])
@pytest.mark.parametrize("change", ["flat", "longer", "shorter", "empty"])
def test_another_shape_is_refused_by_name(file, refused, name, change):
    edits = {
        "flat": lambda a: a.reshape(1, *a.shape) if a.ndim < 3 else a.reshape(-1),
        "longer": lambda a: np.concatenate([a, a[:1]]),
        "shorter": lambda a: a[:-1],
        "empty": lambda a: a[:0],
    }
    file.change(name, edits[change])
    file.write()
    key = name.rpartition(".")[2]
    # Values and positions must agree, so the message may name either.
    refused(r"(values|positions)" if key == "values" else key)


@pytest.mark.parametrize(
    "shape", [[0, 2**62], [2**31, 2**31, 0], [-1], [1] * 20, [2.5], "ab", [0, "x"]]
)
def test_absurd_shapes_are_refused_by_name(file, refused, shape):
    file.header["body.2.panels"] = {"dtype": "I8", "shape": shape}
    file.data["body.2.panels"] = b""
    file.write()
    refused(r"tensor 'body\.2\.panels'(.* absurd shape|: shape must be a list of integers)")


def test_unknown_dtypes_and_fields_of_a_tensor_are_refused_by_name(file, refused):
    file.header["head.bias"]["dtype"] = "F8_E4M3"
    file.write()
    refused("tensor 'head.bias' has unknown dtype 'F8_E4M3'; known are")
    file.header["head.bias"] = {"dtype": "F32", "shape": [5], "note": "hello"}
    file.write()
    refused("tensor 'head.bias': expected dtype, shape and data_offsets alone")


def test_a_bool_that_is_neither_0_nor_1_is_refused(tmp_path):
    model = nn.Module()
    model.register_buffer("flags", torch.tensor([True, False, True]))
    save(model, tmp_path / "f")
    content = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(content[:-1] + b"\x02")
    with pytest.raises(FileFormatError, match="tensor 'flags': a bool is neither 0 nor 1"):
        load(tmp_path / "f", model, check_hash=False)


def _set(place, value):
    def edit(array):
        array[place] = value

    return edit


def _sorted_break(positions):
    # The second entry of a full lane at the place of the first: no longer increasing.
    step, lane = np.argwhere((np.diff(positions.astype(int), axis=2) > 0).all(axis=2))[0]
    positions[step, lane, 1] = positions[step, lane, 0]


def _grown(steps):
    steps[0, 0] += 1


CATALOGUE = [
    ("step_ptr", _set(0, 1)),
    ("step_ptr", _set(0, -1)),
    ("step_ptr", _set(-1, 2**40)),
    ("step_ptr", _set(-1, 0)),
    ("step_ptr", lambda a: a[::-1].copy()),
    ("step_ptr", _set(1, -(2**62))),
    ("steps", _grown),
    ("steps", _set((0, 0), 255)),
    ("steps", _set((0, 0), 17)),
    ("positions", _set((0, 0, 0), 64)),
    ("positions", _set((0, 0, 0), 255)),
    ("positions", _sorted_break),
    ("positions", lambda a: a[:, :, ::-1].copy()),
    ("values", _set((0, 0, 0), -128)),
    ("values", lambda a: np.concatenate([a, a])),
    ("scale", _set(3, 0.0)),
    ("scale", _set(3, -1.0)),
    ("scale", _set(3, np.nan)),
    ("scale", _set(3, np.inf)),
    ("input_scale", _set((), 0.0)),
    ("input_scale", _set((), -1.0)),
    ("input_scale", _set((), np.nan)),
    ("input_zero_point", _set((), -1)),
    ("input_zero_point", _set((), 256)),
    ("input_zero_point", _set((), 2**31 - 1)),
]


@pytest.mark.parametrize(("key", "edit"), CATALOGUE)
def test_a_malformed_windowed_layer_is_refused_by_tensor_and_layer(file, refused, key, edit):
    file.change(f"body.0.{key}", edit)
    file.write()
    refused(rf"layer 'body\.0': .*{'(values|positions)' if key == 'values' else key}")


@pytest.mark.parametrize(
    ("key", "edit"), [("panels", _set((0, 0, 0, 0), -128)), *CATALOGUE[-10:-6]]
)
def test_a_malformed_dense_layer_is_refused_by_tensor_and_layer(file, refused, key, edit):
    file.change(f"body.2.{key}", edit)
    file.write()
    refused(rf"layer 'body\.2': .*{key}")
