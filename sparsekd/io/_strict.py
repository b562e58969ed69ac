"""What the models of a manifest have in common: nothing unknown, nothing converted, safe names."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

__all__ = ["Name", "Strict", "check_name"]

_MAX_NAME = 1024


class Strict(BaseModel):
    """A frozen model that takes exactly its fields, each of exactly its type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


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
