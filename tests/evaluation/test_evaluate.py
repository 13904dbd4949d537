"""The whole card through the command line: drawn by a tiny model, or read from a folder; interrupted and gone on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xreal.config import PRESETS
from xreal.data.contract import Sample
from xreal.data.phantom import phantom
from xreal.data.prepared import PreparedDataset, write_shard
from xreal.evaluation.cases import Cases, read_cases, write_case
from xreal.evaluation.options import AXES
from xreal.evaluation.rows import as_stored
from xreal.images import through_jpeg
from xreal.models.folder import write_index
from xreal.models.organs import build_adapter
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding

SIZE = PRESETS["tiny"].image_size


@pytest.fixture(scope="module")
def card(
    data: Path, judges: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, object]]:
    """Hold the card of the tiny model, all axes that need no training."""
    from typer.testing import CliRunner

    from xreal.cli import app

    out = tmp_path_factory.mktemp("card") / "report"
    result = CliRunner().invoke(app, _command(data, judges, out, "--model", tiny_model_folder, "--n", 4))
    assert result.exit_code == 0, result.output
    assert "minutes" in result.output  # it says before it starts what it will take
    return out, json.loads((out / "report.json").read_text())


def _command(data: Path, judges: Path, out: Path, *more: object) -> list[str]:
    common = ("evaluate", "--real", data, "--judges", judges, "--out", out, "--two-pass-n", 1)
    return [str(argument) for argument in (*common, *more)]


def test_rows_hold_floor_ceiling_model_and_ablations(card: tuple[Path, dict]) -> None:
    rows = card[1]["rows"]
    assert list(rows) == [
        "real vs real",
        "reconstructed",
        "regional",
        "finding as prompt",
        "two-pass",
        "without organ mask",
        "shuffled masks",
    ]
    assert {"fidelity: cxr-encoder", "fidelity: autoencoder", "radiomics", "spectrum"} <= rows["real vs real"].keys()
    assert rows["reconstructed"]["fidelity: autoencoder"]["frechet distance"]["n"] == 100
    for axis in ("anatomy", "pathology", "diversity", "privacy"):
        assert axis in rows["regional"], axis
    assert rows["regional"]["anatomy"]["dice heart"]["n"] == 4
    # Beside the twin without prompt: the prompt changes all of the X-ray, the box its own place.
    outside = {name: rows[name]["pathology"]["outside"]["value"] for name in ("regional", "finding as prompt")}
    assert outside["finding as prompt"] > 1e-3 > 10 * outside["regional"]
    assert set(card[1]["findings"]["regional"]) == {"Pneumonia", "Infiltration", "Atelectasis", "Edema"}


def test_rows_are_those_asked_for_and_the_prior_is_one_where_an_adapter_may_be_left_out(
    data: Path,
    judges: Path,
    tiny_pipeline: XRealPipeline,
    tiny_model_folder: Path,
    tmp_path: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    build_adapter(tiny_pipeline.unet, 8).save_pretrained(model / "anatomy_adapter")
    assert write_index(model)
    asked = ("--n", 2, "--only", "anatomy", "--rows")
    command = _command(data, judges, tmp_path / "out", "--model", model, *asked, "regional,prior")
    assert run(*command) == 0
    rows = json.loads((tmp_path / "out/report.json").read_text())["rows"]
    assert list(rows) == ["real vs real", "reconstructed", "regional", "prior instead of adapter", "shuffled masks"]
    assert rows["regional"]["anatomy"] != rows["prior instead of adapter"]["anatomy"]
    for names, message in (("regional,best", "unknown row 'best'"), ("text", "the row regional is what the others")):
        assert run(*_command(data, judges, tmp_path / "no", "--model", model, *asked, names)) == 2
        assert message in capsys.readouterr().err


def test_every_number_has_its_n_and_lies_in_its_interval(card: tuple[Path, dict]) -> None:
    numbers = [one for axes in card[1]["rows"].values() for axis in axes.values() for one in axis.values()]
    assert len(numbers) > 100
    for one in numbers:
        assert one["n"] >= 1
        if one["low"] is not None:
            assert one["low"] - 1e-9 <= one["value"] <= one["high"] + 1e-9


def test_reconstructions_stand_further_from_the_reference_than_real_images(card: tuple[Path, dict]) -> None:
    rows = card[1]["rows"]
    floor, blurred = (
        rows[name]["spectrum"]["spectrum distance"]["value"] for name in ("real vs real", "reconstructed")
    )
    assert blurred > 2 * floor


def test_page_opens_without_a_network(card: tuple[Path, dict]) -> None:
    page = (card[0] / "index.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    for expected in ("worst cases", "nearest training images", "power spectrum", "data:image/png;base64,"):
        assert expected in page
    assert "| regional |" in (card[0] / "report.md").read_text()


def test_interrupted_card_goes_on_with_the_same_images(
    card: tuple[Path, dict], data: Path, judges: Path, tiny_model_folder: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    out = Path(shutil.copytree(card[0], tmp_path / "report"))
    gone, kept = out / "images/regional/0002.png", out / "images/regional/0001.png"
    pixels, written = gone.read_bytes(), kept.stat().st_mtime_ns
    for path in out.glob("images/regional/0002*"):
        path.unlink()
    again = _command(data, judges, out, "--model", tiny_model_folder, "--n", 4, "--only", "anatomy")
    assert run(*again) == 0
    assert gone.read_bytes() == pixels
    assert kept.stat().st_mtime_ns == written
    rows = json.loads((out / "report.json").read_text())["rows"]
    assert rows["regional"]["anatomy"] == card[1]["rows"]["regional"]["anatomy"]


def test_images_of_other_settings_are_not_mixed_in(
    card: tuple[Path, dict],
    data: Path,
    judges: Path,
    tiny_model_folder: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    again = _command(data, judges, card[0], "--model", tiny_model_folder, "--n", 4, "--seed", 5)
    assert run(*again) == 2
    assert "drawn with another seed" in capsys.readouterr().err


def test_other_real_x_rays_are_not_judged_by_pictures_that_are_there(
    card: tuple[Path, dict],
    data: Path,
    judges: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(card[0], tmp_path / "report")
    write_shard(tmp_path / "val-00000.parquet", list(PreparedDataset([data], "val"))[::-1])
    again = _command(tmp_path, judges, tmp_path / "report", "--model", tiny_model_folder, "--n", 4)
    assert run(*again, "--only", "anatomy", "--rows", "regional") == 2
    assert "was drawn with another request" in capsys.readouterr().err


def test_what_is_drawn_is_stored_as_the_x_rays_that_own_the_masks(
    data: Path, judges: Path, tiny_model_folder: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    samples = list(PreparedDataset([data], "val"))
    coarse = [replace(sample, jpeg_steps=(255,) * 64) for sample in samples]
    write_shard(tmp_path / "val-00000.parquet", coarse)
    asked = ("--model", tiny_model_folder, "--n", 100, "--rows", "regional", "--only", "fidelity")
    told = []
    for real, out in ((data, "png"), (tmp_path, "jpeg")):
        assert run(*_command(real, judges, tmp_path / out, *asked)) == 0
        told.append(json.loads((tmp_path / out / "report.json").read_text())["rows"])
    for name in ("reconstructed", "regional"):
        assert told[0][name]["spectrum"] != told[1][name]["spectrum"]
    assert told[0]["real vs real"]["spectrum"] == told[1]["real vs real"]["spectrum"]  # they are stored already


def test_halves_that_changed_places_give_the_other_masks(
    data: Path, judges: Path, tiny_model_folder: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    asked, reports = ("--model", tiny_model_folder, "--n", 4, "--rows", "regional", "--only", "anatomy"), []
    for out, more in ((tmp_path / "usual", ()), (tmp_path / "swapped", ("--swap-halves",))):
        assert run(*_command(data, judges, out, *asked, *more)) == 0
        reports.append(json.loads((out / "report.json").read_text()))
    usual, swapped = (
        {path.read_bytes() for path in (tmp_path / name / "images/regional").glob("*-organs.png")}
        for name in ("usual", "swapped")
    )
    assert len(usual) == len(swapped) == 4
    assert not usual & swapped
    assert [report["about"]["reference"].endswith("halves swapped)") for report in reports] == [False, True]


def test_only_what_was_in_a_jpeg_file_goes_through_one() -> None:
    images = np.random.default_rng(0).random((2, SIZE, SIZE)).astype(np.float32)
    owners = Cases.from_samples([Sample(np.zeros((SIZE, SIZE), np.uint8), jpeg_steps=s) for s in ((9,) * 64, ())])
    stored = as_stored(images, owners)
    np.testing.assert_array_equal(stored[0], through_jpeg(images[0], (9,) * 64))
    np.testing.assert_array_equal(stored[1], images[1])


def test_network_learns_from_other_x_rays_than_it_is_tested_on(
    data: Path,
    judges: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    class Tells:
        def __init__(self, learnt: np.ndarray, tested: np.ndarray, seed: int) -> None:
            self.real = learnt, tested

        def compare(self, learnt: np.ndarray, tested: np.ndarray, networks: bool) -> dict[str, object]:
            seen.append((self.real[0], learnt, self.real[1], tested))
            accuracy = {"value": 1.0, "low": 0.9, "high": 1.0, "n": len(tested)}
            return {"real or generated, many": {"accuracy": accuracy, "networks": accuracy} if networks else {}}

    asked = ("--model", tiny_model_folder, "--n", 2, "--rows", "regional", "--only", "network")
    assert run(*_command(data, judges, tmp_path / "few", *asked)) == 0
    few = json.loads((tmp_path / "few/report.json").read_text())
    assert any("12 X-rays of `train` have a mask of both lungs" in note for note in few["notes"])
    monkeypatch.setattr("xreal.evaluation.evaluate.FEWEST_TO_LEARN", 12)
    monkeypatch.setattr("xreal.evaluation.evaluate.ManyReference", Tells)
    assert run(*_command(data, judges, tmp_path / "out", *asked)) == 0
    rows = json.loads((tmp_path / "out/report.json").read_text())["rows"]
    for name, (real, generated, test_real, test_generated) in zip(("reconstructed", "regional"), seen, strict=True):
        assert rows[name]["real or generated, many"]["networks"]["value"] == 1
        assert len(real) == len(generated) == 12
        assert not {image.tobytes() for image in real} & {image.tobytes() for image in test_real}
        assert not {image.tobytes() for image in generated} & {image.tobytes() for image in test_generated}
    written = sorted((tmp_path / "out/images/network").glob("*.json"))
    assert json.loads(written[0].read_text())["seed"] == 1_000_000


def test_pictures_from_anywhere_are_judged(
    card: tuple[Path, dict], data: Path, judges: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    assert (
        run(
            *_command(data, judges, tmp_path, "--generated", card[0] / "images/regional", "--only", "anatomy,pathology")
        )
        == 0
    )
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert list(rows) == ["real vs real", "regional", "shuffled masks"]
    for name, one in card[1]["rows"]["regional"]["pathology"].items():
        assert rows["regional"]["pathology"][name]["value"] == pytest.approx(one["value"], abs=0.05), name


def test_a_case_is_read_as_it_was_written(tmp_path: Path) -> None:
    chest = phantom(3, SIZE)
    case = Cases(
        images=chest.image[None],
        image_ids=("a",),
        findings=((Finding.EDEMA,),),
        organ_masks=chest.organ_mask[None],
        lesion_masks=(chest.organ_mask == 3)[None].astype(np.float32),
        healthy=np.full((1, SIZE, SIZE), np.nan, np.float32),
        jpeg_steps=((),),
    )
    write_case(tmp_path, case, 0, {"seed": 1})
    (stored := tmp_path / "a.json").write_text(stored.read_text())
    again = read_cases(tmp_path, SIZE)
    np.testing.assert_allclose(again.images, case.images, atol=1 / 255)
    assert (again.image_ids, again.findings) == (case.image_ids, case.findings)
    assert np.array_equal(again.organ_masks, case.organ_masks)
    assert np.array_equal(again.lesion_masks, case.lesion_masks)
    assert np.isnan(again.healthy).all()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--n", 4), "either a model that draws or a folder"),
        (("--model", "cxr-256", "--generated", "."), "either a model that draws or a folder"),
        (("--model", "cxr-256", "--only", "beauty"), f"expected some of {', '.join(AXES)}"),
        (("--model", "cxr-256", "--n", 0), "≥ 1"),
        (("--generated", ".", "--only", "network"), "draws images to learn from"),
    ],
)
def test_contradicting_options_are_refused(
    arguments: tuple[object, ...],
    expected: str,
    data: Path,
    judges: Path,
    tmp_path: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*_command(data, judges, tmp_path / "out", *arguments)) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_more_images_than_masks_are_refused(
    data: Path,
    judges: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*_command(data, judges, tmp_path, "--model", tiny_model_folder, "--n", 201)) == 2
    assert "only 200 real X-rays have a mask" in capsys.readouterr().err


def test_empty_folder_is_refused(
    data: Path, judges: Path, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(*_command(data, judges, tmp_path / "out", "--generated", tmp_path / "empty")) == 2
    assert "holds no PNG, JPEG, TIFF or DICOM picture" in capsys.readouterr().err


def test_too_few_images_for_distances_are_said(
    card: tuple[Path, dict], data: Path, judges: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    assert run(*_command(data, judges, tmp_path, "--generated", card[0] / "images/regional", "--only", "fidelity")) == 0
    notes = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert any("at least 100 are needed" in note for note in notes)


def test_training_data_without_training_images_are_said(
    data: Path,
    judges: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_shard(tmp_path / "train-00000.parquet", [])
    asked = ("--model", tiny_model_folder, "--n", 1, "--rows", "regional", "--only", "privacy", "--train", tmp_path)
    assert run(*_command(data, judges, tmp_path / "out", *asked)) == 2
    assert "the training data have no X-ray in `train`" in capsys.readouterr().err
