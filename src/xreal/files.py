"""Files written whole or not at all: a temporary file beside the target, then a rename.

What goes through :func:`write_bytes`, or through :func:`temporary_path` and a rename, is after a killed run the old
file or the new one, never half of one. What can be made anew lies in :func:`cache_folder`.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xreal.errors import OutputError

__all__ = ["cache_folder", "temporary_path", "write_bytes", "written_behind"]


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: the file cannot be written; a file that was there before is unchanged.
    """
    temporary = temporary_path(Path(path))
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error}). Check that its folder takes files.") from error


def temporary_path(path: Path) -> Path:
    """Name a hidden file beside the path that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def written_behind() -> Iterator[Callable[..., None]]:
    """Write while the next is computed: yield a function that calls another one in a thread beside.

    One call at a time, so that memory stays bounded. An error of a call is raised at the next one, or at the end, which
    waits for the last.
    """
    waiting: list[Future[None]] = []

    def behind(write: Callable[..., None], *given: Any) -> None:
        while waiting:
            waiting.pop().result()
        waiting.append(thread.submit(write, *given))

    with ThreadPoolExecutor(1) as thread:
        yield behind
        while waiting:
            waiting.pop().result()


def cache_folder() -> Path:
    """Name the folder of what can be made anew: ``XREAL_CACHE``, else "xreal" where this system keeps such files."""
    if own := os.environ.get("XREAL_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "xreal"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "xreal"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xreal"
