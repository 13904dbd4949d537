"""A data set through the command line: whole, checked, resumed, the same whatever the number of processes."""

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import xreal.bulk.drawing
import xreal.bulk.job
from xreal.bulk.job import synthesize
from xreal.bulk.plan import Plan, parse_plan
from xreal.bulk.tables import redraw_command
from xreal.bulk.writing import CLASSES
from xreal.errors import OutputError
from xreal.images import read_image

Run = Callable[..., int]

GIVEN = {
    "images": [{"findings": ["Pneumonia"], "n": 2}, {"findings": ["Edema", "Cardiomegaly"], "n": 2}, {"n": 1}],
    "batch_size": 2,
    "draw": {"steps": 2},
    "checks": {"min_dice": 0},
}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return parse_plan(GIVEN)


@pytest.fixture(scope="module")
def whole(plan: Plan, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a finished data set, drawn without interruption in this process. Not to be changed."""
    out = tmp_path_factory.mktemp("bulk") / "set"
    synthesize(plan, str(tiny_model_folder), out)
    return out


def test_all_files_are_there(whole: Path) -> None:
    names = {f"{index:06d}" for index in range(5)}
    for folder, ending, expected in (
        ("images", ".png", names),
        ("organs", ".png", names),
        ("labels", ".txt", names),
        ("healthy", ".png", names - {"000004"}),
    ):
        assert {path.name for path in (whole / folder).iterdir()} == {name + ending for name in expected}
    assert {path.name for path in (whole / "lesions").iterdir()} == {
        *(f"00000{i}-pneumonia.png" for i in (0, 1)),
        *(f"00000{i}-{finding}.png" for i in (2, 3) for finding in ("edema", "cardiomegaly")),
    }
    with Image.open(whole / "images/000000.png") as picture:
        assert "not for diagnosis" in picture.text["xreal:synthetic"]
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["images"] == {"Pneumonia": 2, "Edema + Cardiomegaly": 2, "No Finding": 1}
    assert (summary["planned"], summary["drawn"], summary["dropped"]["images"]) == (5, 5, [])
    assert (whole / "sheet.png").exists()


def test_coco_and_yolo_describe_the_lesion_masks(whole: Path) -> None:
    coco = json.loads((whole / "coco.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    painted = {path.name: np.zeros((64, 64), bool) for path in (whole / "lesions").iterdir()}
    yolo: dict[int, list[str]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        counts = annotation["segmentation"]["counts"]
        values = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
        mask = values.reshape(annotation["segmentation"]["size"][::-1]).T
        rows, columns = np.nonzero(mask)
        assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, width, height)
        assert annotation["area"] == mask.sum() > 0
        finding = names[annotation["category_id"]]
        painted[f"{annotation['image_id']:06d}-{finding.lower()}.png"] |= mask
        shares = ((x + width / 2) / 64, (y + height / 2) / 64, width / 64, height / 64)
        number = [one.value for one in CLASSES].index(finding)
        yolo[annotation["image_id"]].append(" ".join([str(number), *(f"{share:.6f}" for share in shares)]))
    for name, mask in painted.items():
        np.testing.assert_array_equal(mask, read_image(whole / "lesions" / name) > 0)
    for index, lines in yolo.items():
        assert (whole / f"labels/{index:06d}.txt").read_text().splitlines() == lines
    assert yolo[4] == []


def test_manifest_holds_the_command_that_draws_an_image_again(
    whole: Path, tiny_model_folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pq.read_table(whole / "manifest.parquet").to_pylist()
    assert [row["id"] for row in rows] == list(range(5))
    assert len({row["seed"] for row in rows}) == 5
    monkeypatch.chdir(whole)
    for row in (rows[2], rows[4]):
        command = shlex.split(row["command"])
        command[command.index("--out") + 1] = str(tmp_path / str(row["id"]))
        assert run(*command[1:]) == 0
        again = np.asarray(Image.open(tmp_path / str(row["id"]) / "0000.png"), int)
        assert np.abs(again - np.asarray(Image.open(row["image"]), int)).max() <= 1  # drawn in another batch


def test_the_command_has_what_was_set_to_nothing() -> None:
    draw = {"texture": 0.0, "lesion_start": 0.0, "steps": None, "exact": False, "prompt": ""}
    record = {"id": 3, "model": "cxr-256", "organs": "organs/000003.png", "seed": 0, "lesions": [], "draw": draw}
    expected = "xreal generate --model cxr-256 --organs organs/000003.png --seed 0 --texture 0.0 --lesion-start 0.0"
    assert redraw_command(record) == f"{expected} --out again/000003"


@pytest.mark.slow
def test_two_processes_draw_the_same_files(plan: Plan, whole: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    synthesize(plan, str(tiny_model_folder), tmp_path / "set", workers=2)
    assert bytes_of(tmp_path / "set") == bytes_of(whole)


def test_a_killed_run_goes_on_and_repeats_nothing(
    plan: Plan, whole: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []
    original = xreal.bulk.job.draw_items

    def draw(pipeline: Any, plan: Plan, items: Sequence[Any], copies: Any) -> Any:
        drawn.append([item.index for item in items])
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return original(pipeline, plan, items, copies)

    monkeypatch.setattr(xreal.bulk.job, "draw_items", draw)
    with pytest.raises(KeyboardInterrupt):
        synthesize(plan, str(tiny_model_folder), tmp_path / "set")
    (tmp_path / "set/images/000002.png").write_bytes(b"half")  # of the part that was lost
    synthesize(plan, str(tiny_model_folder), tmp_path / "set")
    assert drawn == [[0, 1], [2, 3], [2, 3], [4]]
    synthesize(plan, str(tiny_model_folder), tmp_path / "set")
    assert len(drawn) == 4
    assert bytes_of(tmp_path / "set") == bytes_of(whole)


def test_what_fails_is_drawn_again_then_dropped_with_the_reason(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def measure(pipeline: Any, images: np.ndarray, organ_masks: np.ndarray) -> list[dict[str, float]]:
        calls.append(len(images))
        scores = {1: [0.9, 0.2, 0.2], 2: [0.9, 0.1], 3: [0.1]}[len(calls)]  # the third image never obeys
        return [{"heart": score, "left lung": 1.0} for score in scores]

    monkeypatch.setattr(xreal.bulk.drawing, "conformance", measure)
    plan = parse_plan({"images": [{"n": 3}], "draw": {"steps": 2}, "checks": {"min_dice": 0.8, "retries": 2}})
    summary = synthesize(plan, str(tiny_model_folder), tmp_path / "set")
    assert calls == [3, 2, 1]
    assert summary["dropped"] == {"images": [2], "reasons": {"Dice of the heart below 0.8": 1}}
    assert summary["tries"] == {"1": 1, "2": 1}
    assert not (tmp_path / "set/images/000002.png").exists()
    assert pq.read_table(tmp_path / "set/manifest.parquet")["id"].to_pylist() == [0, 1]


def test_a_set_in_which_everything_was_dropped_says_so(tiny_model_folder: Path, tmp_path: Path) -> None:
    plan = parse_plan({"images": [{"n": 2}], "draw": {"steps": 1}, "checks": {"min_dice": 1, "retries": 0}})
    summary = synthesize(plan, str(tiny_model_folder), tmp_path / "set")
    assert (summary["drawn"], summary["dropped"]["images"]) == (0, [0, 1])
    assert pq.read_table(tmp_path / "set/manifest.parquet").num_rows == 0


def test_another_plan_is_not_mixed_in(whole: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    before = bytes_of(whole)
    with pytest.raises(OutputError, match="was begun with another plan; give the same plan"):
        synthesize(parse_plan({**GIVEN, "seed": 1}), str(tiny_model_folder), whole)
    assert bytes_of(whole) == before
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match="already holds files"):
        synthesize(parse_plan(GIVEN), str(tiny_model_folder), tmp_path)


def test_command_reads_options(
    run: Run, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--images",
        "Edema+Mass=1",
        "--images",
        "No Finding=1",
        "--min-dice",
        "0",
        "--retries",
        "0",
        "--seed",
        "4",
    )
    shape = ("--ctr", "0.48,0.52", "--steps", "1", "--guidance", "0")
    assert run("synthesize", *options, *shape, "--model", tiny_model_folder, "--out", tmp_path / "set") == 0
    assert "2 of 2 images, 0 dropped" in capsys.readouterr().out
    plan = json.loads((tmp_path / "set/plan.json").read_text())["plan"]
    assert (plan["checks"]["min_dice"], plan["checks"]["retries"], plan["seed"]) == (0, 0, 4)
    assert (plan["draw"]["steps"], plan["draw"]["guidance"], plan["anatomies"]["ctr"]) == (1, 0, [0.48, 0.52])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give either --plan FILE or --images"),
        (("--plan", "p.yaml", "--images", "Edema=1"), "give either --plan FILE or --images"),
        (("--plan", "p.yaml", "--seed", "1"), "put seed into p.yaml instead of options"),
        (("--plan", "p.yaml"), "plan p.yaml cannot be read"),
        (("--images", "Edema"), "'Edema' is not understood"),
        (("--images", "Edma=1"), "Did you mean 'Edema'"),
        (("--images", "Edema=1", "--ctr", "wide"), "--ctr is 'wide'; expected"),
        (("--images", "Edema=1", "--masks", "none"), "none holds no organ masks"),
        (("--images", "Edema=1", "--boxes", "none"), "none is no folder"),
        (("--images", "Fracture=1"), "Fracture lies in neither lungs nor heart"),
        (("--images", "Edema=1", "--workers", "0"), "0 workers cannot draw"),
        (("--images", "Edema=1", "--model", "none"), "none is neither a folder nor a bundled model"),
    ],
)
def test_command_refuses_before_anything_is_written(
    options: tuple[str, ...],
    says: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("synthesize", *options, "--out", "set") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_missing_extra_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xreal.cli.synthesize.find_spec", lambda name: None)
    assert run("synthesize", "--images", "Edema=1", "--out", tmp_path / "set") == 2
    assert 'pip install "xreal-cxr[synthesize]"' in capsys.readouterr().err
