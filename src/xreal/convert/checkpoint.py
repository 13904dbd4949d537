"""Open PyTorch checkpoints safely, and know for each tensor where it came from."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xreal.errors import ModelError

__all__ = ["Weights", "named", "read_checkpoint"]


@dataclass(frozen=True)
class Weights:
    """Tensors of one network in a checkpoint.

    Attributes:
        path: the file.
        prefix: what all keys begin with in the file.
        tensors: by key, without the prefix.
    """

    path: Path
    prefix: str
    tensors: Mapping[str, Tensor]

    def part(self, prefix: str) -> Weights:
        """Return those whose key begins with ``prefix``, taken off."""
        inner = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        return Weights(self.path, self.prefix + prefix, inner)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape.

        Raises:
            ModelError: it is not there.
        """
        if key not in self.tensors:
            raise ModelError(f"{self.path} lacks {self.prefix}{key}; is it the right file, and whole?")
        return tuple(self.tensors[key].shape)

    def count(self, prefix: str) -> int:
        """Return how many different numbers follow ``prefix`` in the keys."""
        return len({key.removeprefix(prefix).split(".")[0] for key in self.tensors if key.startswith(prefix)})


def read_checkpoint(path: Path) -> Weights:
    """Read the tensors of a PyTorch checkpoint: its ``state_dict`` or, without that entry, the whole content.

    Only tensors and plain values are unpickled (``weights_only=True``), so a file cannot run code. Tensors stay on the
    disk until they are used where the file's format allows it.

    Raises:
        ModelError: missing, truncated, no checkpoint, or with content that is no tensor.
    """
    if not path.is_file():
        raise ModelError(f"{path} is no file; expected a PyTorch checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is no PyTorch checkpoint, is damaged, or holds Python objects, which are not opened because they "
            f"can run code ({_first_sentence(error)}). Save its weights alone: torch.save({{'state_dict': …}}, FILE)."
        ) from error
    except Exception as error:  # torch has many errors for damaged files
        raise ModelError(f"{path} is truncated or no PyTorch checkpoint ({_first_sentence(error)})") from error
    _check_sums(path)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not tensors:
        raise ModelError(f"{path} holds no state_dict; expected a checkpoint with one")
    if strange := [str(key) for key, value in tensors.items() if not isinstance(value, Tensor)]:
        raise ModelError(f"{path} holds no state_dict of tensors: {named(strange)} are something else")
    return Weights(path, "", {str(key): value for key, value in tensors.items()})


def _check_sums(path: Path) -> None:
    """See that what is stored is what was written; torch reads over a changed byte without a word.

    Raises:
        ModelError: a checksum of the file does not agree.
    """
    if not zipfile.is_zipfile(path):  # the format before PyTorch 1.6 has none
        return
    with zipfile.ZipFile(path) as archive:
        try:
            damaged = archive.testzip()
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise ModelError(f"{path} is damaged ({_first_sentence(error)}); get it again") from error
    if damaged is not None:
        raise ModelError(f"{path} is damaged: the checksum of {damaged} does not agree; get it again")


def named(keys: list[str], limit: int = 8) -> str:
    """List the first keys and how many follow."""
    rest = len(keys) - limit
    return ", ".join(keys[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0][:200]
