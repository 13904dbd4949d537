"""Progress bars of the commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

__all__ = ["hide_loading_bars", "track", "track_named"]

T = TypeVar("T")


def hide_loading_bars() -> None:
    """Keep transformers from drawing its own bar for each file of weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def track(shards: Iterable[T]) -> Iterable[T]:
    """Show how many shards are done."""
    return track_named(shards, "shards")


def track_named(sequence: Iterable[T], name: str) -> Iterable[T]:
    """Show how much of ``sequence`` is done, under a name."""
    from rich.progress import track as rich_track

    return rich_track(sequence, description=name)
