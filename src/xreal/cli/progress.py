"""Progress bars of the commands, and what several of them read from their options."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

__all__ = ["hide_loading_bars", "parse_batch_size", "track", "track_named"]

T = TypeVar("T")


def hide_loading_bars() -> None:
    """Keep transformers, where it is loaded already, from drawing its own bar for each file of weights."""
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()


def track(shards: Iterable[T]) -> Iterable[T]:
    """Show how many shards are done."""
    return track_named(shards, "shards")


def track_named(sequence: Iterable[T], name: str) -> Iterable[T]:
    """Show how much of ``sequence`` is done, under a name."""
    from rich.progress import track as rich_track

    return rich_track(sequence, description=name)


def parse_batch_size(text: str) -> int | None:
    """Read how many images are drawn side by side; None for "auto".

    Raises:
        InputError: neither "auto" nor a number from 1 on.
    """
    from xreal.errors import InputError

    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--batch-size is {text!r}; expected auto, or a number from 1 on")
    return int(text)
