"""All parts of a data set, drawn by one or several processes or machines; what is on disk is kept.

A part is ``batch_size`` images that are drawn side by side. Its record, ``parts/00000.json``, is written last and marks
it whole; a killed run begins again with the parts that have none. Each process computes with one thread, because
another number of threads sums in another order: so the same plan gives the same files whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import xreal
from xreal.bulk.copies import CopyCheck, prepare_copy_check
from xreal.bulk.drawing import Result, draw_items
from xreal.bulk.owners import check_owners
from xreal.bulk.plan import Plan
from xreal.bulk.sampling import check_places, list_masks, read_boxes, sample_item
from xreal.bulk.tables import write_tables
from xreal.bulk.writing import folders, write_result
from xreal.data.prepared import fingerprint
from xreal.errors import DataError, InputError, ModelError, OutputError
from xreal.files import cache_folder, write_bytes, written_behind
from xreal.images import check_output_folder, write_json
from xreal.models.backends import EAGER, Backend, choose_backend, choose_device
from xreal.models.folder import BUNDLED, read_index, resolve_folder, weights_hash
from xreal.pipeline import XRealPipeline

__all__ = ["Job", "check_machine", "draw_part", "synthesize"]

Progress = Callable[[Iterable[int], int], Iterable[int]]


@dataclass(frozen=True)
class Job:
    """All that a process needs to draw any part.

    Attributes:
        model: name or folder.
        out: the data set's folder.
        weights: hash of the model's weights.
        masks: organ masks to choose from; none: the shape model.
        copies: how near-copies are told, or None.
        backend: as it was asked for, see ``XRealPipeline.use_backend``.
        computed: what that is on this machine.
    """

    plan: Plan
    model: str
    out: Path
    weights: str
    masks: tuple[Path, ...] = ()
    copies: CopyCheck | None = None
    backend: str = "torch"
    computed: Backend = EAGER

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.plan.n // self.plan.batch_size)

    def record(self, part: int) -> Path:
        """Name the file that marks a part whole."""
        return self.out / "parts" / f"{part:05d}.json"


def synthesize(
    plan: Plan,
    model: str,
    out: Path,
    workers: int | None = None,
    progress: Progress = lambda parts, _: parts,
    backend: str = "auto",
    ray: str | None = None,
) -> dict[str, Any]:
    """Draw a data set, or what is missing of it, and write its tables.

    Args:
        plan: what it shall hold.
        model: name of a bundled model, or folder.
        out: its folder; a new one, or one that was begun with the same plan and model.
        workers: processes that draw, about 1 GB of memory each; default 1, or every core of a Ray cluster.
        progress: wraps the numbers of finished parts, given how many there will be.
        backend: what computes, see ``XRealPipeline.use_backend``; a data set is drawn by one.
        ray: where given, a Ray cluster draws: "local", "auto" or "HOST:PORT", see cluster.py.

    Returns:
        The summary, also in ``summary.json``.

    Raises:
        InputError: a plan that cannot be drawn, no workers, or no such cluster. DataError, MaskError: its folders do
            not hold what it needs. ModelError: the model cannot be used. OutputError: ``out`` cannot be written, or was
            begun otherwise.
    """
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers cannot draw anything; give at least 1")
    if ray is not None:
        from xreal.bulk.cluster import check_ray

        check_ray(ray)
    folder = resolve_folder(model)
    components = read_index(folder)
    if not {"anatomy_controller", "anatomy_adapter"} & components.keys():
        raise ModelError(f"{model} has neither anatomy_controller nor anatomy_adapter; see `xreal train anatomy`")
    if plan.checks.min_dice > 0 and "segmenter" not in components:
        raise ModelError(f"{model} has no segmenter to check images with; set checks: min_dice to 0, or train one")
    masks, boxes = list_masks(plan.anatomies), read_boxes(plan.lesions.boxes)
    if plan.anatomies.redraw:
        check_owners(plan.anatomies.redraw, [group.findings for group in plan.images])
    else:
        check_places(plan, boxes)
    computed = choose_backend(backend, choose_device(backend), plan.draw.quality)
    job = Job(plan, model, out, weights_hash(folder), tuple(masks), backend=backend, computed=computed)
    digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in masks)).hexdigest()[:16]
    identity = {"plan": asdict(plan), "weights": job.weights, "xreal": xreal.__version__, "masks": digest}
    identity["computed"] = asdict(computed)
    if plan.anatomies.redraw:
        identity["redraw"] = fingerprint(plan.anatomies.redraw, "train")
    _begin(out, plan, json.loads(json.dumps(identity)), boxes)
    missing = [part for part in range(job.parts) if not job.record(part).exists()]
    if missing:
        if plan.checks.train:
            job = replace(job, copies=prepare_copy_check(plan.checks.train, cache_folder()))
        with _parts(job, missing, workers, ray) as done:
            for _ in progress(done, len(missing)):
                pass
    return write_tables(out, (job.record(part) for part in range(job.parts)), plan)


def _begin(out: Path, plan: Plan, identity: dict[str, Any], boxes: dict[str, Any]) -> None:
    """Mark a new folder with what it will hold, or see that an old one is marked with the same."""
    plan_file, boxes_file = out / "plan.json", out / "boxes.json"
    if not plan_file.exists():
        check_output_folder(out)
        try:
            for name in folders(plan):
                (out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out} cannot be made a folder ({error}); choose another") from error
        write_json(boxes_file, boxes)
        write_json(plan_file, identity)
        return
    begun, known_boxes = (
        json.loads(plan_file.read_text(encoding="utf-8")),
        json.loads(boxes_file.read_text(encoding="utf-8")),
    )
    differing = [key for key in identity if begun.get(key) != identity[key]] + ["boxes"] * (known_boxes != boxes)
    if differing:
        raise OutputError(
            f"{out} was begun with another {' and '.join(differing)}; "
            "give the same plan and model to go on, or a new folder"
        )


@contextmanager
def _parts(job: Job, missing: list[int], workers: int | None, ray: str | None) -> Iterator[Iterable[int]]:
    """Draw the missing parts and yield their numbers as they are done."""
    if ray is not None:
        from xreal.bulk.cluster import parts_on_ray

        with parts_on_ray(job, missing, ray, workers) as done:
            yield done
        return
    if workers in (None, 1):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with written_behind() as behind:
                yield (_draw_and_write_behind(job, part, behind) for part in missing)
        finally:
            torch.set_num_threads(threads)
            _open.cache_clear()
        return
    pool = ProcessPoolExecutor(
        min(workers, len(missing)), multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)
    )
    try:
        yield (done.result() for done in as_completed([pool.submit(draw_part, job, part) for part in missing]))
    except BrokenProcessPool as error:
        raise DataError(
            f"a process that draws was killed, perhaps for want of memory; start again with fewer workers: what is in "
            f"{job.out} is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=1)
def _open(model: str, backend: str) -> XRealPipeline:
    pipeline = XRealPipeline.from_pretrained(model, backend, device="auto")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check_machine(job: Job) -> None:
    """See that another machine sees the job's files, and the same weights and version.

    Raises:
        DataError: it does not.
    """
    known = json.loads(plan.read_text(encoding="utf-8")) if (plan := job.out / "plan.json").exists() else {}
    missing = [path for path in (*job.masks, *map(Path, job.plan.anatomies.redraw)) if not path.exists()]
    if job.copies is not None:
        needed = (*map(Path, job.copies.folders), job.copies.thumbnails)
        missing += [path for path in needed if not path.exists()]
    if known.get("weights") != job.weights:
        missing.insert(0, job.out)
    if missing:
        raise DataError(
            f"{platform.node()} does not see {missing[0]}; give folders, by absolute names, that all machines share"
        )
    here = {"weights": weights_hash(resolve_folder(job.model)), "xreal": xreal.__version__}
    for what, value in here.items():
        if known[what] != value:
            raise DataError(f"{platform.node()} has {what} {value} for {job.model}, expected {known[what]}")


def draw_part(job: Job, part: int) -> int:
    """Draw one part, write its files, its record last, and return its number. It depends on the job alone."""
    _write(job, part, _draw(job, part))
    return part


def _draw_and_write_behind(job: Job, part: int, behind: Callable[..., None]) -> int:
    behind(_write, job, part, _draw(job, part))
    return part


def _draw(job: Job, part: int) -> list[Result]:
    pipeline, plan = _open(job.model, job.backend), job.plan
    boxes = json.loads((job.out / "boxes.json").read_text(encoding="utf-8"))
    first = part * plan.batch_size
    indices = range(first, min(first + plan.batch_size, plan.n))
    items = [sample_item(plan, index, pipeline.image_size, job.masks, boxes) for index in indices]
    return draw_items(pipeline, plan, items, job.copies)


def _write(job: Job, part: int, results: list[Result]) -> None:
    model = job.model if job.model in BUNDLED else str(Path(job.model).absolute())
    records = [write_result(job.out, job.plan, result, model, job.weights, job.computed) for result in results]
    write_bytes(job.record(part), json.dumps(records).encode())
