"""A bar that knows about how long what is left takes."""

from __future__ import annotations

from types import TracebackType

__all__ = ["Bar"]


class Bar:
    """Progress in seconds of expected work, on stderr where that is a terminal.

    Args:
        seconds: what all of it is expected to take.
        shown: False for none at all.
    """

    def __init__(self, name: str, seconds: float, shown: bool = True) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=max(1, round(seconds)),
            desc=name,
            unit="s",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}, left {remaining}{postfix}",
            disable=None if shown else True,
        )

    def at(self, what: str) -> None:
        """What comes next."""
        self._bar.set_postfix_str(what)

    def done(self, seconds: float) -> None:
        """So much of the expected work is behind us."""
        self._bar.update(seconds)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
