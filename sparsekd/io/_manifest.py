"""The manifest: what a file says about itself, as strict as its models below.

It is one JSON string in the safetensors metadata. Every field is required, an unknown field or
value is refused, and a file of another version is refused before its fields are looked at.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from sparsekd.backend import format_of
from sparsekd.convert import EngineLayer, Sizes, sizes_of
from sparsekd.io._strict import Name, Strict
from sparsekd.io._tuning import TuningEntry
from sparsekd.nn import Conv1d, Conv2d, Linear
from sparsekd.spec import Bf16, Fp32, Int8

__all__ = [
    "KINDS",
    "VERSION",
    "ConvEntry",
    "FileFormatError",
    "LayerEntry",
    "LinearEntry",
    "Manifest",
    "build",
    "entry_of",
    "sizes_in",
    "strict_json",
]

VERSION = 1
_MAX_FEATURES = 2**31 - 1
_MAX_CHANNELS = 2**20  # the engine's own limit on channels, strides and the like


class FileFormatError(ValueError):
    """A file that is refused; the message says which file, which tensor or field, and why."""


Features = Annotated[int, Field(ge=0, le=_MAX_FEATURES)]
Channels = Annotated[int, Field(ge=1, le=_MAX_CHANNELS)]
PerDimension = Annotated[list[Annotated[int, Field(ge=1, le=_MAX_CHANNELS)]], Field(max_length=2)]
Padding = Annotated[list[Annotated[int, Field(ge=0, le=_MAX_CHANNELS)]], Field(max_length=2)]


class Int8Entry(Strict):
    """An :class:`sparsekd.spec.Int8`."""

    name: Literal["int8"]
    activations: Literal["dynamic", "static"]
    observer: Literal["minmax", "percentile"]
    percentile: Annotated[float, Field(ge=50.0, le=100.0, allow_inf_nan=False)]

    def scheme(self) -> Int8:
        """The scheme itself."""
        return Int8(self.activations, self.observer, self.percentile)


class Fp32Entry(Strict):
    """An :class:`sparsekd.spec.Fp32`; the window is that of the windowed kernel, else null."""

    name: Literal["fp32"]
    window: Literal[16, 32] | None

    def scheme(self) -> Fp32:
        """The scheme itself."""
        return Fp32(self.window)


class Bf16Entry(Strict):
    """A :class:`sparsekd.spec.Bf16`."""

    name: Literal["bf16"]

    def scheme(self) -> Bf16:
        """The scheme itself."""
        return Bf16()


class _Layer(Strict):
    """What the entries of all kinds have.

    ``activation_module`` names the module whose place an identity takes because the layer runs
    it, or is None where the layer's activation never was a module of the model. ``norm_module``
    names the BatchNorm that was folded into the layer, whose place an identity takes likewise.
    """

    kernel: Literal["windowed", "dense", "depthwise", "csr"]
    scheme: Annotated[Int8Entry | Fp32Entry | Bf16Entry, Field(discriminator="name")]
    bias: bool
    activation: Literal["relu", "relu6", "gelu", "silu", "hardswish"] | None
    activation_module: Name | None
    norm_module: Name | None

    @model_validator(mode="after")
    def _consistent(self) -> _Layer:
        if self.activation is None and self.activation_module is not None:
            raise ValueError("names an activation_module without an activation")
        if self.norm_module is not None and not self.bias:
            raise ValueError("names a norm_module, which gives a bias, without a bias")
        format_of(self.scheme.scheme(), self.kernel)
        if isinstance(self.scheme, Fp32Entry):
            windowed = self.kernel == "windowed"
            if (self.scheme.window is not None) != windowed:
                raise ValueError(
                    f"kernel {self.kernel!r} {'needs a' if windowed else 'has no'} window"
                )
        return self


class LinearEntry(_Layer):
    """What :class:`sparsekd.nn.Linear` is built with."""

    kind: Literal["linear"]
    in_features: Features
    out_features: Features


class ConvEntry(_Layer):
    """What :class:`sparsekd.nn.Conv1d` (one size a dimension) or Conv2d (two) is built with.

    ``channels_last``: the layer's outputs are, whatever its inputs. ``geometry``: what the weight
    is cut along; files from before there was a choice lack it, and so do those with pixels.
    """

    kind: Literal["conv1d", "conv2d"]
    in_channels: Channels
    out_channels: Channels
    kernel_size: PerDimension
    stride: PerDimension
    padding: Padding | Literal["same", "valid"]
    dilation: PerDimension
    groups: Channels
    channels_last: bool
    geometry: Literal["pixels", "rows"] = "pixels"

    @model_validator(mode="after")
    def _dimensions(self) -> ConvEntry:
        dims = 1 if self.kind == "conv1d" else 2
        for key in ("kernel_size", "stride", "padding", "dilation"):
            value = getattr(self, key)
            if isinstance(value, list) and len(value) != dims:
                raise ValueError(f"{key} has {len(value)} numbers, a {self.kind} has {dims}")
        if self.channels_last and dims == 1:
            raise ValueError("channels_last is a memory format of images, not of a conv1d")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        if self.geometry == "pixels":
            del fields["geometry"]
        return fields


LayerEntry = LinearEntry | ConvEntry
KINDS: dict[str, type[EngineLayer]] = {"linear": Linear, "conv1d": Conv1d, "conv2d": Conv2d}
_NAMES = {engine: kind for kind, engine in KINDS.items()}


def entry_of(
    layer: EngineLayer, activation_module: str | None, norm_module: str | None
) -> LayerEntry:
    """The entry of an engine layer; the names are those of what runs inside it."""
    kind = _NAMES[type(layer)]
    model = LinearEntry if kind == "linear" else ConvEntry
    return model.model_validate(
        {
            "kind": kind,
            **sizes_of(layer),
            **({} if isinstance(layer, Linear) else _conv_fields(layer)),
            "kernel": layer.kernel,
            "scheme": _scheme_fields(layer),
            "bias": layer.bias is not None,
            "activation": layer.activation,
            "activation_module": activation_module,
            "norm_module": norm_module,
        }
    )


def _conv_fields(layer: Conv1d | Conv2d) -> dict[str, object]:
    return {"channels_last": layer.channels_last, "geometry": layer.geometry}


def _scheme_fields(layer: EngineLayer) -> dict[str, object]:
    scheme = layer.scheme
    if isinstance(scheme, Int8):
        return {
            "name": "int8",
            "activations": scheme.activations,
            "observer": scheme.observer,
            "percentile": float(scheme.percentile),
        }
    if isinstance(scheme, Fp32):
        return {"name": "fp32", "window": scheme.window if layer.kernel == "windowed" else None}
    return {"name": "bf16"}


def build(entry: LayerEntry) -> EngineLayer:
    """A fresh engine layer of this description, its weights still zero.

    Raises:
        ValueError: sizes that do not go together, or with the kernel.
    """
    scheme = entry.scheme.scheme()
    if isinstance(entry, LinearEntry):
        return Linear(
            entry.in_features,
            entry.out_features,
            entry.bias,
            scheme=scheme,
            kernel=entry.kernel,
            activation=entry.activation,
        )
    kind: type[Conv1d | Conv2d] = Conv1d if entry.kind == "conv1d" else Conv2d
    padding = entry.padding
    layer = kind(
        entry.in_channels,
        entry.out_channels,
        tuple(entry.kernel_size),
        tuple(entry.stride),
        padding if isinstance(padding, str) else tuple(padding),
        tuple(entry.dilation),
        entry.groups,
        entry.bias,
        scheme=scheme,
        kernel=entry.kernel,
        activation=entry.activation,
        geometry=entry.geometry,
    )
    layer.channels_last = entry.channels_last
    return layer


def sizes_in(entry: LayerEntry) -> Sizes:
    """The sizes that an entry holds, as ``convert.sizes_of`` gives those of a layer."""
    form = {"kind", "channels_last", "geometry"}
    fields = set(type(entry).model_fields) - set(_Layer.model_fields) - form
    return {key: getattr(entry, key) for key in fields}


class Manifest(Strict):
    """Everything that a file says beside its tensors.

    ``sha256`` is of the data section; ``tied`` maps each further name of a tensor to the name
    under which it is stored; ``tuning`` is how kernels were chosen, None where nothing was
    measured.
    """

    format: Literal["sparsekd"]
    version: Literal[1]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    layers: dict[Name, Annotated[LayerEntry, Field(discriminator="kind")]]
    tied: dict[Name, Name]
    tuning: TuningEntry | None

    @model_validator(mode="after")
    def _tuned_as_stored(self) -> Manifest:
        for name, choice in () if self.tuning is None else self.tuning.layers.items():
            stored = self.layers.get(name)
            kernel = "torch" if stored is None else stored.kernel
            if choice.kernel != kernel:
                raise ValueError(
                    f"layer {name!r} has kernel {kernel!r}, chosen for it was {choice.kernel!r}"
                )
        return self

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            FileFormatError: it is not JSON, of another format or version, or a field is unknown,
                missing or out of range.
        """
        try:
            data = strict_json(text)
        except ValueError as error:
            raise FileFormatError(f"the manifest is not valid JSON ({error})") from error
        if not isinstance(data, dict) or data.get("format") != "sparsekd":
            raise FileFormatError("the manifest does not say format 'sparsekd'")
        version = data.get("version")
        if type(version) is not int or version != VERSION:
            raise FileFormatError(
                f"the file has format version {version!r}, this sparsekd reads version {VERSION}"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = first["msg"].removeprefix("Value error, ")
            given = "" if isinstance(first["input"], dict) else f", got {first['input']!r:.80}"
            raise FileFormatError(
                f"manifest field {_place(first['loc'])!r}: {message}{given}"
            ) from error


def _place(location: tuple[int | str, ...]) -> str:
    """Where in the JSON an error is; pydantic's location also names the kinds that it chose."""
    parts = list(location)
    if not parts:  # the one rule about the manifest as a whole
        return "tuning"
    if parts[0] == "layers":
        del parts[2:3]  # "conv2d"
        if parts[2:3] == ["scheme"]:
            del parts[3:4]  # "int8"
    return ".".join(map(str, parts))[:120]


def strict_json(text: str | bytes) -> Any:
    """``json.loads`` that refuses repeated keys, NaN and Infinity.

    Raises:
        ValueError: the text is not such JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is repeated")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
