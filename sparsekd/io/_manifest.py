"""The manifest: what a file says about itself, as strict as its models below.

It is one JSON string in the safetensors metadata. Every field is required, an unknown field or
value is refused, and a file of another version is refused before its fields are looked at.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparsekd.nn import Linear
from sparsekd.spec import Int8

__all__ = ["VERSION", "FileFormatError", "LayerEntry", "Manifest", "SchemeEntry", "check_name"]

VERSION = 1
_MAX_FEATURES = 2**31 - 1
_MAX_NAME = 1024


class FileFormatError(ValueError):
    """A file that is refused; the message says which file, which tensor or field, and why."""


def check_name(name: str) -> str:
    """A dotted module or tensor name, or "" for the model itself.

    Raises:
        ValueError: an empty part (as in ".."), a slash, a control character, or too long.
    """
    if len(name) > _MAX_NAME:
        raise ValueError(f"a name has {len(name)} characters, at most {_MAX_NAME} are allowed")
    if name and not all(name.split(".")):
        raise ValueError(f"name {name!r} has an empty part")
    if any(char in "/\\" or not char.isprintable() for char in name):
        raise ValueError(f"name {name!r} has a slash or a character that can not be printed")
    return name


Name = Annotated[str, AfterValidator(check_name)]
Features = Annotated[int, Field(ge=0, le=_MAX_FEATURES)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SchemeEntry(_Strict):
    """An :class:`sparsekd.spec.Int8`."""

    name: Literal["int8"]
    activations: Literal["dynamic", "static"]
    observer: Literal["minmax", "percentile"]
    percentile: Annotated[float, Field(ge=50.0, le=100.0, allow_inf_nan=False)]

    def scheme(self) -> Int8:
        """The scheme itself."""
        return Int8(self.activations, self.observer, self.percentile)


class LayerEntry(_Strict):
    """One engine layer: what :class:`sparsekd.nn.Linear` is built with.

    ``activation_module`` names the module whose place an identity takes because the layer runs
    it, or is None where the layer's activation never was a module of the model.
    """

    kind: Literal["linear"]
    kernel: Literal["windowed", "dense"]
    scheme: SchemeEntry
    in_features: Features
    out_features: Features
    bias: bool
    activation: Literal["relu", "gelu", "silu"] | None
    activation_module: Name | None

    @model_validator(mode="after")
    def _activation_named(self) -> LayerEntry:
        if self.activation is None and self.activation_module is not None:
            raise ValueError("names an activation_module without an activation")
        return self

    @classmethod
    def of(cls, layer: Linear, activation_module: str | None) -> LayerEntry:
        """The entry of an engine layer.

        Raises:
            ValueError: a scheme or kernel that this version of the format does not know.
        """
        spec = layer.scheme
        if not isinstance(spec, Int8):
            raise ValueError(f"file format version {VERSION} can not hold scheme {spec!r}")
        return cls.model_validate(
            {
                "kind": "linear",
                "kernel": layer.kernel,
                "scheme": {
                    "name": "int8",
                    "activations": spec.activations,
                    "observer": spec.observer,
                    "percentile": float(spec.percentile),
                },
                "in_features": layer.in_features,
                "out_features": layer.out_features,
                "bias": layer.bias is not None,
                "activation": layer.activation,
                "activation_module": activation_module,
            }
        )

    def build(self) -> Linear:
        """A fresh engine layer of this description, its weights still zero."""
        return Linear(
            self.in_features,
            self.out_features,
            self.bias,
            scheme=self.scheme.scheme(),
            kernel=self.kernel,
            activation=self.activation,
        )


class Manifest(_Strict):
    """Everything that a file says beside its tensors.

    ``sha256`` is of the data section; ``tied`` maps each further name of a tensor to the name
    under which it is stored.
    """

    format: Literal["sparsekd"]
    version: Literal[1]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    layers: dict[Name, LayerEntry]
    tied: dict[Name, Name]

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
            place = ".".join(map(str, first["loc"]))[:120]
            given = repr(first["input"])[:80]
            message = first["msg"].removeprefix("Value error, ")
            raise FileFormatError(f"manifest field {place!r}: {message}, got {given}") from error


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
