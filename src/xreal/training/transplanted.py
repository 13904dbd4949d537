"""A prepared data set of transplanted opacities, to train on beside the one that they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from xreal.data.contract import Sample
from xreal.data.prepared import SHARD_ROWS, PreparedDataset, write_contact_sheet, write_shard
from xreal.errors import DataError, InputError, OutputError
from xreal.images import write_json
from xreal.training.transplant import Opacity, find_opacities, transplant
from xreal.vocabulary import Finding

__all__ = ["write_transplanted"]

_TRIES = 12  # opacities that are tried on a host; half of them fit one
_IN_VAIN = 100  # hosts in a row that none fits

Track = Callable[[Sequence[int]], Iterable[int]]


def write_transplanted(
    folders: Sequence[Path], out: Path, count: int = 1000, seed: int = 0, progress: Track = iter
) -> dict[str, object]:
    """Write healthy X-rays of ``train``, each with an opacity from another patient's box, as a split ``train``.

    Args:
        folders: prepared data sets with boxes, healthy X-rays ("No Finding") and organ masks.
        out: for Parquet shards, ``summary.json`` and ``sheet.png``; no other split is written.
        count: X-rays to write.
        seed: of hosts, opacities and how they are moved.
        progress: shows progress over the shards.

    Returns:
        Summary, also written to ``summary.json``: X-rays, and of how many opacities and hosts.

    Raises:
        DataError: no box that lies in one lung, no healthy X-ray with an organ mask, or none that any opacity fits.
        InputError: ``count`` below 1 or ``seed`` below 0. OutputError: ``out`` holds a data set already.
    """
    if count < 1 or seed < 0:
        raise InputError(f"{count} X-rays from seed {seed}: expected 1 or more, and a seed of 0 or more")
    if any(out.glob("*.parquet")):
        raise OutputError(f"{out} holds a prepared data set; give another folder")
    data = PreparedDataset(folders, "train")
    opacities = find_opacities(data[i] for i, names in enumerate(data.box_findings) if names)
    findings = data.findings
    hosts = [i for i in data.with_organ_mask() if findings[i] == (Finding.NO_FINDING,)]
    if not opacities or not hosts:
        raise DataError(
            f"{len(opacities)} boxes in a lung and {len(hosts)} healthy X-rays with an organ mask; at least one of "
            "each is needed. Prepare a source with boxes, and one with No Finding, with --segmenter"
        )
    out.mkdir(parents=True, exist_ok=True)
    made = _made(data, hosts, opacities, np.random.default_rng(seed))
    for number in progress(range(-(-count // SHARD_ROWS))):
        samples = list(islice(made, min(SHARD_ROWS, count - number * SHARD_ROWS)))
        write_shard(out / f"train-{number:05d}.parquet", samples)
    summary: dict[str, object] = {"images": count, "opacities": len(opacities), "hosts": len(hosts), "seed": seed}
    write_json(out / "summary.json", summary)
    write_contact_sheet(out)
    return summary


def _made(
    data: PreparedDataset, hosts: list[int], opacities: list[Opacity], generator: np.random.Generator
) -> Iterator[Sample]:
    in_vain = 0
    while in_vain < _IN_VAIN:
        host = data[hosts[generator.integers(len(hosts))]]
        in_vain += 1
        for index in generator.integers(len(opacities), size=_TRIES):
            sample = transplant(host, opacities[index], generator)
            if sample is not None:
                in_vain = 0
                yield sample
                break
    raise DataError(f"none of {_IN_VAIN} healthy X-rays in a row takes any of the {len(opacities)} opacities")
