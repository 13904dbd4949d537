"""X-rays of a prepared data set are drawn again, with their own organs, all of their findings as prompt."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from xreal.bulk.job import synthesize
from xreal.bulk.plan import Plan, parse_plan
from xreal.data.contract import Sample
from xreal.data.phantom import phantom
from xreal.data.prepared import write_shard
from xreal.errors import DataError, OutputError
from xreal.images import read_image
from xreal.masks.organs import read_organ_mask
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding

SIZE = 64


def x_ray(number: int, *findings: Finding, masked: bool = True) -> Sample:
    chest = phantom(number, SIZE)
    image = np.rint(chest.image * 255).astype(np.uint8)
    return Sample(image, chest.organ_mask if masked else None, f"x{number}", f"x{number}", findings=findings)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One X-ray with Pneumonia and Edema, one without a finding, and others that must not be taken."""
    folder = tmp_path / "data"
    folder.mkdir()
    train = [
        x_ray(0, Finding.PNEUMONIA, Finding.EDEMA),
        x_ray(1, Finding.NO_FINDING),
        x_ray(2, Finding.PNEUMONIA, masked=False),
        x_ray(3),
        x_ray(4, Finding.EDEMA),
    ]
    write_shard(folder / "train-00000.parquet", train)
    write_shard(folder / "val-00000.parquet", [x_ray(5, Finding.PNEUMONIA), x_ray(6, Finding.NO_FINDING)])
    return folder


def planned(data: Path, *findings: str) -> Plan:
    images = [{"findings": list(findings), "n": 2}, {"n": 1}]
    settings = {"draw": {"steps": 2}, "checks": {"min_dice": 0}, "batch_size": 2}
    return parse_plan({"images": images, "anatomies": {"redraw": str(data)}, **settings})


def test_organs_and_findings_are_an_x_rays_own(
    data: Path,
    tiny_pipeline: XRealPipeline,
    tiny_model_folder: Path,
    tmp_path: Path,
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "set"
    summary = synthesize(planned(data, "Pneumonia"), str(tiny_model_folder), out)
    assert summary["images"] == {"Edema + Pneumonia": 2, "No Finding": 1}
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    prompts = ["Edema, Pneumonia", "Edema, Pneumonia", "No Finding"]
    for row, owner, prompt in zip(rows, (0, 0, 1), prompts, strict=True):
        organs = phantom(owner, SIZE).organ_mask
        np.testing.assert_array_equal(read_organ_mask(out / row["organs"]), organs)
        assert (json.loads(row["anatomy"]), json.loads(row["draw"])["prompt"]) == ({"redraw": f"x{owner}"}, prompt)
        assert (row["lesions"], row["healthy"]) == ([], None)
        wanted = tiny_pipeline(organs, seeds=[row["seed"]], prompt=prompt, steps=2).images[0]
        np.testing.assert_allclose(read_image(out / row["image"]), wanted, atol=2 / 255)
    assert rows[0]["seed"] != rows[1]["seed"]
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"images", "organs", "parts"}
    assert not {"coco.json", "yolo.yaml"} & {path.name for path in out.iterdir()}  # no boxes, not "boxes: none"

    monkeypatch.chdir(out)
    command = shlex.split(rows[0]["command"])
    command[command.index("--out") + 1] = str(tmp_path / "again")
    assert run(*command[1:]) == 0
    np.testing.assert_allclose(
        read_image(tmp_path / "again/0000.png"), read_image(out / rows[0]["image"]), atol=1.1 / 255
    )


def test_other_data_are_not_mixed_in(data: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    plan = planned(data, "Edema")
    synthesize(plan, str(tiny_model_folder), tmp_path / "set")
    write_shard(data / "train-00001.parquet", [x_ray(7, Finding.EDEMA)])
    with pytest.raises(OutputError, match="another redraw"):
        synthesize(plan, str(tiny_model_folder), tmp_path / "set")


@pytest.mark.parametrize(
    ("findings", "says"), [(("Fracture",), "shows Fracture"), (("Edema", "Mass"), "shows Edema and Mass")]
)
def test_findings_that_no_x_ray_shows_are_refused(
    findings: tuple[str, ...], says: str, data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=says):
        synthesize(planned(data, *findings), str(tiny_model_folder), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_the_command_line_draws_them(
    data: Path, tiny_model_folder: Path, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--images", "Pneumonia=1", "--redraw", data, "--min-dice", "0", "--steps", "1")
    assert run("synthesize", *given, "--model", tiny_model_folder, "--out", tmp_path / "set") == 0
    assert "1  Edema + Pneumonia" in capsys.readouterr().out
