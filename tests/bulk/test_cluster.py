"""A data set drawn on a Ray cluster: the same files as without, and a killed worker's part is drawn again."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import psutil
import pytest
import ray.cluster_utils

import xreal.bulk.cluster
from xreal.bulk.cluster import _Worker, check_ray
from xreal.bulk.job import Job, check_machine, synthesize
from xreal.bulk.plan import Plan, parse_plan
from xreal.errors import DataError, InputError
from xreal.models.folder import weights_hash

Run = Callable[..., int]

PARTS, STEPS = 6, 50


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def plan() -> Plan:
    draw = {"images": [{"findings": ["Pneumonia"], "n": PARTS}], "batch_size": 1, "draw": {"steps": STEPS}}
    return parse_plan({**draw, "checks": {"min_dice": 0}})


@pytest.fixture(scope="module")
def whole(plan: Plan, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold the data set as one process draws it. Not to be changed."""
    out = tmp_path_factory.mktemp("bulk") / "set"
    synthesize(plan, str(tiny_model_folder), out)
    return out


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_raylet_start_wait_time_s", "120")
        environment.setenv("RAY_worker_niceness", "0")  # 15 by default: workers would stand still on a busy machine
        yield


@pytest.fixture(scope="module")
def cluster(environment: None) -> Iterator[str]:
    """Run a cluster of two machines of one core each, as far as Ray can tell; returns its address."""
    machine = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    cluster.add_node(**machine)
    yield cluster.address
    cluster.shutdown()


def drawing() -> list[int]:
    """Return the processes that draw a part just now, as Ray names them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::_Worker.draw"):
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def tee(parts: Iterable[int], into: list[int]) -> Iterator[int]:
    for part in parts:
        into.append(part)
        yield part


class Killer:
    """Kills workers that draw, ``most`` at the most, once ``parts`` parts are done; notes all that drew."""

    def __init__(self, out: Path, parts: int, most: int) -> None:
        self.out, self.parts, self.most = out, parts, most
        self.seen: set[int] = set()
        self.killed: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            for process in drawing():
                self.seen.add(process)
                if len(self.killed) < self.most and len(list(self.out.glob("parts/[0-9]*.json"))) >= self.parts:
                    os.kill(process, signal.SIGKILL)
                    self.killed.add(process)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.slow
def test_a_killed_workers_part_is_drawn_again_and_nothing_else(
    cluster: str, plan: Plan, whole: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    done: list[int] = []
    with Killer(out, parts=1, most=1) as killer:
        synthesize(plan, str(tiny_model_folder), out, progress=lambda parts, _: tee(parts, done), ray=cluster)
    assert len(killer.killed) == 1
    assert killer.seen > killer.killed  # others went on
    assert sorted(done) == list(range(PARTS))
    assert bytes_of(out) == bytes_of(whole)


@pytest.mark.slow
def test_a_part_that_kills_two_workers_ends_the_run_which_goes_on_without_ray(
    cluster: str, plan: Plan, whole: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    with Killer(out, parts=0, most=1000) as killer, pytest.raises(DataError, match=r"part \d killed two workers"):
        synthesize(plan, str(tiny_model_folder), out, ray=cluster, workers=1)
    assert len(killer.killed) == 2
    synthesize(plan, str(tiny_model_folder), out)
    assert bytes_of(out) == bytes_of(whole)


@pytest.mark.slow
def test_a_cluster_of_this_machine_draws_the_same_files(
    plan: Plan, whole: Path, run: Run, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = "batch_size: 1\nchecks: {min_dice: 0}\n"
    drawn = f"images: [{{findings: [Pneumonia], n: {PARTS}}}]\ndraw: {{steps: {STEPS}}}\n"
    (tmp_path / "plan.yaml").write_text(drawn + checked)
    options = ("--plan", tmp_path / "plan.yaml", "--model", tiny_model_folder, "--out", tmp_path / "set")
    assert run("synthesize", *options, "--ray", "local", "--workers", 2) == 0
    assert f"{PARTS} of {PARTS} images" in capsys.readouterr().out
    assert bytes_of(tmp_path / "set") == bytes_of(whole)


def test_a_machine_that_does_not_see_the_files_is_named(
    plan: Plan, whole: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    job = Job(plan, str(tiny_model_folder), whole, weights_hash(tiny_model_folder))
    check_machine(job)
    for other, said in (
        (replace(job, out=tmp_path), f"does not see {tmp_path}; give folders"),
        (replace(job, masks=(tmp_path / "none.png",)), "does not see .*none.png; give folders"),
        (replace(job, model="cxr-256"), "has weights .* for cxr-256, expected"),
    ):
        with pytest.raises(DataError, match=said):
            check_machine(other)


def test_a_part_that_was_written_before_its_worker_died_is_not_drawn_again(
    plan: Plan, whole: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(xreal.bulk.cluster, "draw_part", lambda job, part: drawn.append(part) or part)
    worker = _Worker(Job(plan, str(tiny_model_folder), whole, weights_hash(tiny_model_folder)))
    assert [worker.draw(part) for part in (2, PARTS)] == [2, PARTS]
    assert drawn == [PARTS]  # one that nobody wrote


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nowhere", "--ray 'nowhere' is not understood; expected HOST:PORT"),
        ("http://here:8265", "--ray 'http://here:8265' is not understood"),
        ("here:99999", "is not understood"),
        ("CLOSED", "no Ray cluster answers at 127.0.0.1:"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(
    address: str, says: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        address = address.replace("CLOSED", f"127.0.0.1:{unused.getsockname()[1]}")
        assert run("synthesize", "--images", "Edema=1", "--ray", address, "--out", tmp_path / "set") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "xreal-cxr\[distributed\]"'):
        check_ray("local")
