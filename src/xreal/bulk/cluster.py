"""Parts of a data set, drawn by the machines of a Ray cluster: one worker a core, one copy of the model each.

Ray carries part numbers only. What a worker draws it writes itself, as every other process does (see job.py), so all
machines must see the data set's folder, the model and the plan's folders under the same names.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import xreal
from xreal.bulk.job import Job, check_machine, draw_part
from xreal.errors import DataError, InputError, XRealError
from xreal.models.folder import BUNDLED

__all__ = ["check_ray", "parts_on_ray"]

_ANSWER_S = 10  # within which a cluster's port must answer; Ray itself would try for minutes


class _Worker:
    """What runs on the cluster: one process with the model open. Ray starts it anew, wherever it finds room."""

    def __init__(self, job: Job) -> None:
        self._job, self._checked = job, False
        torch.set_num_threads(1)

    def ready(self) -> None:
        """Say that parts can come.

        Raises:
            DataError: this machine does not see the job's files, or sees others.
        """
        if not self._checked:
            check_machine(self._job)
            self._checked = True

    def draw(self, part: int) -> int:
        """Draw a part; one that was drawn by a worker that died before it could say so is not drawn again."""
        self.ready()  # a worker that Ray started anew may be on another machine
        return part if self._job.record(part).exists() else draw_part(self._job, part)


def check_ray(address: str) -> None:
    """See that Ray is installed and that a cluster listens, before anything is written.

    Args:
        address: "local" for a cluster of this machine that lives as long as the run; "auto" for the cluster that this
            machine belongs to; or "HOST:PORT" of the cluster's head. This machine must belong to it.

    Raises:
        InputError: Ray is missing, the address is not understood, or nothing listens there.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise InputError(
            'drawing on a cluster needs Ray; install it on every machine: pip install "xreal-cxr[distributed]"'
        ) from error
    host, _, port = address.rpartition(":")
    if address in ("local", "auto"):
        return
    if not host or "/" in host or not port.isdecimal() or int(port) >= 2**16:
        raise InputError(f"--ray {address!r} is not understood; expected HOST:PORT of a cluster's head, auto, or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise InputError(
            f"no Ray cluster answers at {address} ({error}); start one there with `ray start --head --port {port}`, "
            "or give --ray local"
        ) from error


@contextmanager
def parts_on_ray(job: Job, missing: list[int], address: str, workers: int | None) -> Iterator[Iterable[int]]:
    """Draw the missing parts on a cluster and yield their numbers as they are done.

    Args:
        job: what to draw.
        missing: numbers of parts, at least one.
        address: see :func:`check_ray`.
        workers: how many; None: all cores of the cluster, or 1 on a local one.

    Raises:
        InputError: the cluster cannot be joined, or has fewer cores than workers.
        DataError: two workers died over the same part, or a machine does not see the files. XRealError: as
            ``draw_part``.
    """
    import ray

    cores = _join(address, workers or 1)
    try:
        if workers is not None and workers > cores:
            raise InputError(f"{workers} workers need as many cores, but the cluster at {address} has {cores}")
        yield _draw(job, missing, min(workers or cores, len(missing)))
    finally:
        ray.shutdown()


def _join(address: str, cores: int) -> int:
    """Join or start a cluster; return how many cores it has."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or workers warn of a default that will change
    if address == "local":
        own: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": 100_000_000}
    else:
        own = {}
    try:
        ray.init(address, logging_level="ERROR", log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(
            f"the Ray cluster {address} cannot be joined ({' '.join(str(error).split())}); it must be up, of the same "
            f"Ray ({ray.__version__}) and Python, and this machine must belong to it (`ray start --address HOST:PORT`)"
        ) from error
    return int(ray.cluster_resources().get("CPU", 0))


def _draw(job: Job, missing: list[int], workers: int) -> Iterator[int]:
    """Hand each worker that is free the next part. A part whose worker dies is drawn once more, by a new one."""
    import ray

    # Other machines have other working directories; the bundled models' folders differ too, but not their names.
    model = job.model if job.model in BUNDLED else str(Path(job.model).resolve())
    job = replace(job, model=model, out=job.out.resolve(), masks=tuple(path.resolve() for path in job.masks))
    redraw = tuple(str(Path(folder).resolve()) for folder in job.plan.anatomies.redraw)
    job = replace(job, plan=replace(job.plan, anatomies=replace(job.plan.anatomies, redraw=redraw)))
    remote = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=1, scheduling_strategy="SPREAD")(_Worker)
    pool = [remote.remote(job) for _ in range(workers)]
    # Busy workers, by what they will answer. Where the cluster has no room yet, a worker is ready later, or never.
    busy = {worker.ready.remote(): (worker, -1) for worker in pool}
    waiting, left = deque(missing), len(missing)
    while left:
        (answer,), _ = ray.wait(list(busy), num_returns=1)
        worker, part = busy.pop(answer)
        _answer(answer, job, part)
        if part >= 0:
            left -= 1
            yield part
        if waiting:
            part = waiting.popleft()
            busy[worker.draw.remote(part)] = worker, part


def _answer(answer: Any, job: Job, part: int) -> None:
    import ray

    try:
        ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, XRealError) else error) from None
    except ray.exceptions.RayActorError as error:
        what = f"part {part} killed two workers" if part >= 0 else "a worker could not start"
        raise DataError(
            f"{what}, perhaps for want of memory, or because a machine lacks xreal {xreal.__version__} "
            f"({' '.join(str(error).split())[:500]}); start again with fewer workers: what is in {job.out} is kept"
        ) from error
