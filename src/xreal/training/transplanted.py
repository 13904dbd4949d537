"""A prepared data set of opacities and simulated findings in healthy lungs, to train on beside their own data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np

from xreal.data.contract import Sample
from xreal.data.prepared import SHARD_ROWS, PreparedDataset, write_contact_sheet, write_shard
from xreal.errors import DataError, InputError, OutputError
from xreal.images import write_json
from xreal.training.effusions import add_effusion
from xreal.training.nodules import add_nodule
from xreal.training.transplant import Opacity, find_opacities, transplant
from xreal.vocabulary import Finding

__all__ = ["write_transplanted"]

_TRIES = 12  # opacities that are tried on a host; one in six fits
_IN_VAIN = 100  # hosts in a row that none fits

Track = Callable[[Sequence[int]], Iterable[int]]


def write_transplanted(
    folders: Sequence[Path], out: Path, count: int = 1000, simulated: int = 0, seed: int = 0, progress: Track = iter
) -> dict[str, object]:
    """Write healthy X-rays of ``train``, each with an opacity of another patient or a simulated finding, as ``train``.

    Args:
        folders: prepared data sets with boxes, healthy X-rays ("No Finding") and organ masks.
        out: for Parquet shards, ``summary.json`` and ``sheet.png``; no other split is written.
        count: X-rays with an opacity.
        simulated: X-rays with a nodule, a mass or an effusion, these as many as the others.
        seed: of hosts, opacities and how they are moved, and of what is simulated.
        progress: shows progress over the shards.

    Returns:
        Summary, also written to ``summary.json``: X-rays, and of how many opacities and hosts.

    Raises:
        DataError: no box that lies in one lung, no healthy X-ray with an organ mask, or none that any opacity fits.
        InputError: nothing to write, or a number below 0. OutputError: ``out`` holds a data set already.
    """
    if min(count, simulated, seed) < 0 or count + simulated == 0:
        raise InputError(
            f"{count} opacities and {simulated} simulated findings from seed {seed}: expected one or more, none below 0"
        )
    if any(out.glob("*.parquet")):
        raise OutputError(f"{out} holds a prepared data set; give another folder")
    data = PreparedDataset(folders, "train")
    opacities = find_opacities(data[i] for i, names in enumerate(data.box_findings) if names) if count else []
    findings = data.findings
    hosts = [i for i in data.with_organ_mask() if findings[i] == (Finding.NO_FINDING,)]
    if not hosts or (count and not opacities):
        raise DataError(
            f"{len(opacities)} boxes in a lung and {len(hosts)} healthy X-rays with an organ mask; at least one of "
            "each is needed. Prepare a source with boxes, and one with No Finding, with --segmenter"
        )
    out.mkdir(parents=True, exist_ok=True)
    for_opacities, for_simulated = np.random.default_rng(seed).spawn(2)
    made = chain(
        islice(_transplanted(data, hosts, opacities, for_opacities), count),
        islice(_simulated(data, hosts, for_simulated), simulated),
    )
    for number in progress(range(-(-(count + simulated) // SHARD_ROWS))):
        write_shard(out / f"train-{number:05d}.parquet", list(islice(made, SHARD_ROWS)))
    summary: dict[str, object] = {"images": count + simulated, "opacities": len(opacities), "simulated": simulated}
    summary |= {"hosts": len(hosts), "seed": seed}
    write_json(out / "summary.json", summary)
    write_contact_sheet(out)
    return summary


def _transplanted(
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


def _simulated(data: PreparedDataset, hosts: list[int], generator: np.random.Generator) -> Iterator[Sample]:
    for add in cycle((add_nodule, add_effusion)):
        tried = (add(data[hosts[generator.integers(len(hosts))]], generator) for _ in range(_IN_VAIN))
        sample = next((one for one in tried if one is not None), None)
        if sample is None:
            raise DataError(f"none of {_IN_VAIN} healthy X-rays has room for what {add.__name__} draws")
        yield sample
