"""``xreal masks``: what its commands write and say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xreal.data.contract import Sample
from xreal.data.phantom import phantom
from xreal.data.prepared import write_shard
from xreal.masks.organs import cardiothoracic_ratio, read_organ_mask, write_organ_mask
from xreal.masks.shape_model import load_shape_model
from xreal.vocabulary import Organ

Run = Callable[..., int]


def write_data(folder: Path, train: int, val: int, masks: bool = True) -> Path:
    folder.mkdir()
    for split, seeds in (("train", range(train)), ("val", range(100, 100 + val))):
        samples = []
        for seed in seeds:
            chest = phantom(seed, 128)
            image = np.rint(chest.image * 255).astype(np.uint8)
            organs = np.where(chest.organ_mask == Organ.AORTA, 0, chest.organ_mask) if masks else None
            samples.append(Sample(image, organs, image_id=f"{split}{seed}", patient_id=f"{split}{seed}", source="test"))
        write_shard(folder / f"{split}-00000.parquet", samples)
    return folder


def test_sample_writes_masks_their_measures_and_a_sheet(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("masks", "sample", "-n", 2, "--ctr", 0.6, "--seed", 4, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0000.png", "0001.png", "masks.json", "sheet.png"]
    records = json.loads((out / "masks.json").read_text())
    for number, record in enumerate(records):
        ratio = cardiothoracic_ratio(read_organ_mask(out / record["file"]))
        assert ratio == pytest.approx(0.6, abs=0.0101)
        assert record["seed"] == 4 + number
        assert record["measures"]["ctr"] == ratio
        assert record["settings"]["ctr"] == 0.6
    assert "seed 5" in capsys.readouterr().out
    assert run("masks", "sample", "--ctr", 0.6, "--seed", 5, "--out", tmp_path / "one") == 0
    assert (tmp_path / "one" / "0000.png").read_bytes() == (out / "0001.png").read_bytes()


def test_sample_that_cannot_be_leaves_no_folder(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, said in ((("--ctr", 0.97), "ctr 0.97"), (("-n", 0), "--number is 0"), (("--seed", -1), "--seed -1")):
        assert run("masks", "sample", *wrong, "--out", tmp_path / "out") == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_edit_and_ranges(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("masks", "sample", "--ctr", 0.45, "--out", tmp_path / "in") == 0
    organs, out = tmp_path / "in" / "0000.png", tmp_path / "edited.png"
    assert run("masks", "edit", organs, "--ctr", 0.55, "--out", out) == 0
    assert "ctr 0.55" in capsys.readouterr().out.splitlines()[-1]
    assert cardiothoracic_ratio(read_organ_mask(out)) == pytest.approx(0.55, abs=0.0101)
    assert run("masks", "edit", organs, "--out", out) == 0
    np.testing.assert_array_equal(read_organ_mask(out), read_organ_mask(organs))
    capsys.readouterr()
    assert run("masks", "ranges", organs) == 0
    assert run("masks", "ranges") == 0
    said = capsys.readouterr().out
    for option in ("--ctr", "--heart-scale", "--lung-scale", "--tilt"):
        assert said.count(option) == 2

    lungs = np.where(read_organ_mask(organs) == Organ.HEART, 0, read_organ_mask(organs))
    write_organ_mask(tmp_path / "lungs.png", lungs)
    assert run("masks", "edit", tmp_path / "lungs.png", "--ctr", 0.5, "--out", tmp_path / "none.png") == 2
    assert "no heart" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_fit_model_learns_judges_and_is_sampled_from(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = write_data(tmp_path / "data", 40, 2), tmp_path / "model.safetensors"
    assert run("masks", "fit-model", "--data", data, "--out", model) == 0
    said = capsys.readouterr().out
    assert f"of {40} masks" in said
    assert "Dice of the fit, heart" in said
    assert load_shape_model(model).n_modes > 3
    assert run("masks", "sample", "--model", model, "--size", 128, "--out", tmp_path / "out") == 0
    assert read_organ_mask(tmp_path / "out" / "0000.png").shape == (128, 128)
    assert run("masks", "sample", "--model", tmp_path / "none", "--out", tmp_path / "other") == 2
    assert "cannot be read as a shape model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("train", "masks", "said"), [(3, True, "3 masks have both lungs"), (3, False, "no X-ray of val")]
)
def test_fit_model_says_what_data_lack(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], train: int, masks: bool, said: str
) -> None:
    data = write_data(tmp_path / "data", train, 1, masks)
    assert run("masks", "fit-model", "--data", data, "--out", tmp_path / "model.safetensors") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "model.safetensors").exists()


def test_fit_model_checks_where_to_write_first(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in (tmp_path, tmp_path / "none" / "model.safetensors"):
        assert run("masks", "fit-model", "--data", tmp_path / "no-data", "--out", out) == 2
        assert "cannot be written" in capsys.readouterr().err
