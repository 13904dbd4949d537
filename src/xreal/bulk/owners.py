"""Real X-rays that are drawn again, as other patients: whose organs and findings an image of a data set takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError
from xreal.masks.organs import OrganMask
from xreal.vocabulary import Finding

__all__ = ["Owner", "check_owners", "draw_owner"]


class Owner(NamedTuple):
    """What an image takes from a real X-ray.

    Attributes:
        image_id: of the X-ray.
        organ_mask: (H, W) uint8 ``Organ``.
        findings: all that it shows, in the order of ``Finding``; empty where it shows none.
    """

    image_id: str
    organ_mask: OrganMask
    findings: tuple[Finding, ...]


def draw_owner(generator: np.random.Generator, folders: Sequence[str], findings: Sequence[Finding]) -> Owner:
    """Draw one of the `train` X-rays with an organ mask that show all of these findings or, given none, none at all."""
    candidates = _candidates(tuple(folders), frozenset(findings))
    sample = _open(tuple(folders))[candidates[int(generator.integers(len(candidates)))]]
    assert sample.organ_mask is not None
    shown = tuple(finding for finding in Finding if finding in sample.findings and finding is not Finding.NO_FINDING)
    return Owner(sample.image_id, sample.organ_mask, shown)


def check_owners(folders: Sequence[str], wanted: Iterable[Sequence[Finding]]) -> None:
    """See that there is an X-ray for each group of findings.

    Raises:
        DataError: there is none, or a folder is no prepared data set.
    """
    for findings in wanted:
        if not _candidates(tuple(folders), frozenset(findings)):
            named = " and ".join(finding.value for finding in findings) or Finding.NO_FINDING.value
            raise DataError(f"{', '.join(folders)}: no `train` X-ray with an organ mask shows {named}")


@lru_cache(maxsize=1)
def _open(folders: tuple[str, ...]) -> PreparedDataset:
    return PreparedDataset(folders, "train")


@lru_cache(maxsize=64)
def _candidates(folders: tuple[str, ...], findings: frozenset[Finding]) -> list[int]:
    data = _open(folders)
    shown, healthy = data.findings, {Finding.NO_FINDING}
    return [i for i in data.with_organ_mask() if (findings <= set(shown[i]) if findings else set(shown[i]) == healthy)]
