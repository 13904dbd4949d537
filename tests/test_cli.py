"""The command line, through its own entry point: what it writes."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xreal
from xreal.data.prepared import PreparedDataset
from xreal.evaluation.cases import read_cases
from xreal.inputs import PLACED_GUIDANCE
from xreal.masks.lesions import Lesion, parse_lesion
from xreal.masks.organs import read_organ_mask, write_organ_mask
from xreal.models.folder import weights_hash
from xreal.vocabulary import Finding

Run = Callable[..., int]


@pytest.fixture
def organs(organ_mask: np.ndarray, tmp_path: Path) -> Path:
    write_organ_mask(tmp_path / "organs.png", organ_mask)
    return tmp_path / "organs.png"


@pytest.fixture
def lesion(lesion_in: Callable[..., Lesion]) -> str:
    rows, columns = np.nonzero(lesion_in().mask)
    return f"Pneumonia=box:{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}"


def picture(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        opened.load()
    return opened


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_help_is_quick_and_loads_no_torch() -> None:
    code = "import sys; sys.argv = ['xreal', '{}', '--help']\nimport xreal.cli\ntry: xreal.cli.main()\n"
    code += "except SystemExit as e: print('loaded', sorted({{'torch', 'numpy', 'diffusers'}} & set(sys.modules)))"
    for command in ("generate", "train"):
        done = subprocess.run([sys.executable, "-c", code.format(command)], capture_output=True, text=True, timeout=20)
        assert "loaded []" in done.stdout, done.stderr


def test_module_is_an_entry_point(tmp_path: Path) -> None:
    python = [sys.executable, "-m", "xreal.cli"]
    shown = subprocess.run([*python, "--help"], capture_output=True, text=True, timeout=20)
    assert shown.returncode == 0
    for command in ("generate", "segment", "prepare", "train"):
        assert command in shown.stdout
    call = [*python, "generate", "--out", "out", "--lesion", "Pneumona=box:1,1,2,2"]
    failed = subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.startswith("xreal: unknown finding 'Pneumona'. Did you mean 'Pneumonia'?")
    assert "Traceback" not in failed.stderr
    assert names(tmp_path) == []


def test_the_bundled_models_own_guidance_reaches_the_command_line(run: Run, tmp_path: Path) -> None:
    """It is told where findings are, and draws them at a third of what prompts alone need."""
    call = (
        "generate",
        "--organs",
        Path(xreal.__file__).parent / "examples/organs.png",
        "--lesion",
        "Pneumonia=box:40,120,90,170",
    )
    assert run(*call, "--steps", 2, "--backend", "torch", "--out", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/0000.json").read_text())["guidance"] == PLACED_GUIDANCE


def test_generate_writes_pictures_twins_records_and_a_sheet(
    run: Run, organs: Path, lesion: str, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call = ("generate", "--organs", organs, "--lesion", f"{lesion}@0.5", "--model", tiny_model_folder)
    assert run(*call, "--seed", 5, "-n", 3, "--batch-size", 2, "--steps", 2, "--out", out) == 0
    kinds = ("-healthy.png", "-lesion.png", "-organs.png", ".json", ".png")
    pictures = [f"000{i}{kind}" for i in range(3) for kind in kinds]
    assert names(out) == sorted([*pictures, "sheet.png"])
    for number in range(3):
        record = json.loads((out / f"000{number}.json").read_text())
        assert record["seed"] == 5 + number
        assert record["weights"] == weights_hash(tiny_model_folder)
        assert record["lesion"] == [f"{lesion}@0.5"]
        assert record["lesions"] == [{"finding": "Pneumonia", "strength": 0.5}]
        wanted = {"mode": "regional", "solver": "dpm++", "steps": 2, "guidance": 9.0, "eta": 0.0, "exact": False}
        assert (wanted | {"backend": "torch", "precision": "float32"}).items() <= record.items()
        blend = {"inside": 1.0, "outside": 0.2, "until": 0.5, "contour_until": 0.9, "variety": 0.0, "adapter": 0.0}
        blend["outside_noise"] = 1.0  # a model without an adapter
        assert record["anatomy"] == blend
        assert record["conformance"].keys() == {"left lung", "right lung", "heart"}
        assert record["accepted"] is True
        assert (record["organs"], record["attempts"]) == (str(organs), 1)
        drawn, twin = (picture(out / f"000{number}{kind}.png") for kind in ("", "-healthy"))
        assert (drawn.size, drawn.mode) == ((64, 64), "L")
        assert drawn.info["xreal:seed"] == str(5 + number)
        assert drawn.info["xreal:weights"] == record["weights"]
        assert "not for diagnosis" in drawn.info["xreal:synthetic"]
        assert drawn.tobytes() != twin.tobytes()
    case = read_cases(out, 64).take([1])
    assert case.findings == ((Finding.PNEUMONIA,),)
    np.testing.assert_array_equal(case.organ_masks[0], read_organ_mask(organs))
    np.testing.assert_allclose(case.lesion_masks[0], parse_lesion(lesion, 64, 64).mask, atol=1 / 255)
    assert picture(out / "sheet.png").width > 6 * 64
    said = capsys.readouterr()
    assert "0002.png  seed 7  Dice: left lung" in said.out
    assert f"  change: Pneumonia {record['change'][0]:.3f}\n" in said.out
    image, healthy = (np.asarray(picture(out / f"0002{kind}.png"), np.float32) / 255 for kind in ("", "-healthy"))
    inside = parse_lesion(lesion, 64, 64).mask > 0
    assert record["change"] == [pytest.approx(np.abs(image - healthy)[inside].mean(), abs=1 / 255)]


def test_a_finding_that_is_hardly_seen_is_named(
    run: Run, organs: Path, lesion: str, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("generate", "--organs", organs, "--lesion", lesion, "--model", tiny_model_folder, "--steps", 2)
    assert run(*call, "--guidance", 0.01, "--out", tmp_path / "faint") == 0
    (change,) = json.loads((tmp_path / "faint/0000.json").read_text())["change"]
    assert change < 0.02
    assert f"Pneumonia changes its place by {change:.3f} of white" in capsys.readouterr().err
    assert run(*call, "--guidance", 500, "--out", tmp_path / "strong") == 0
    assert json.loads((tmp_path / "strong/0000.json").read_text())["change"][0] > 0.02
    assert "changes its place" not in capsys.readouterr().err


def test_same_seed_same_bytes_whatever_the_batch(
    run: Run, organs: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    call = ("generate", "--organs", organs, "--model", tiny_model_folder, "--steps", 2)
    assert run(*call, "-n", 2, "--seed", 3, "--out", tmp_path / "a") == 0
    assert run(*call, "-n", 2, "--seed", 3, "--out", tmp_path / "b") == 0
    written = [f"000{i}{kind}" for i in range(2) for kind in ("-organs.png", ".json", ".png")]
    assert names(tmp_path / "a") == [*written, "sheet.png"]
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert run(*call, "--seed", 4, "--out", tmp_path / "c") == 0
    first, second = (np.asarray(picture(tmp_path / path), int) for path in ("a/0001.png", "c/0000.png"))
    assert np.abs(first - second).max() <= 1  # a grey level of float tolerance
    assert (tmp_path / "a/0000.png").read_bytes() != (tmp_path / "a/0001.png").read_bytes()


def test_an_unusual_mask_is_drawn_with_a_word_about_it(
    run: Run, organs: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_organ_mask(tmp_path / "mirrored.png", read_organ_mask(organs)[:, ::-1])
    lungs = 255 * (read_organ_mask(organs) == 1).astype(np.uint8)
    Image.fromarray(lungs).save(tmp_path / "aorta.png")  # as the authors' masks have it
    call = ("generate", "--model", tiny_model_folder, "--steps", 2)
    assert run(*call, "--organs", tmp_path / "mirrored.png", "--out", tmp_path / "a") == 0
    assert "mirrored.png: The right lung" in capsys.readouterr().err
    assert run(*call, "--organs", tmp_path / "aorta.png", "--out", tmp_path / "b") == 0
    said = capsys.readouterr()
    assert "aorta.png: The left lung is missing. It is drawn all the same." in said.err
    assert "Dice: no organ that the segmenter knows" in said.out


def test_a_warning_is_one_line_without_a_place_in_the_code(run: Run) -> None:
    assert run("--help") == 0  # sets how warnings are written
    ours = warnings.formatwarning(UserWarning("Too wide."), UserWarning, str(Path(xreal.__file__)), 7)
    assert ours == "xreal: Too wide.\n"
    theirs = warnings.formatwarning(UserWarning("Too wide."), UserWarning, "/elsewhere/library.py", 7, "")
    assert theirs.startswith("/elsewhere/library.py:7: UserWarning: Too wide.")


def test_text_to_image_without_organs(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    call = ("generate", "--model", tiny_model_folder, "--steps", 2, "--prompt", "Edema, AP view")
    assert run(*call, "--out", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out/0000.json").read_text())
    assert (record["prompt"], record["conformance"], record["organs"]) == ("Edema, AP view", {}, None)


def test_two_pass_and_exact(run: Run, organs: Path, lesion: str, tiny_model_folder: Path, tmp_path: Path) -> None:
    call = ("generate", "--organs", organs, "--lesion", lesion, "--model", tiny_model_folder, "--steps", 2)
    assert run(*call, "--mode", "two-pass", "--exact", "--out", tmp_path / "out") == 0
    drawn, twin = (np.asarray(picture(tmp_path / f"out/0000{kind}.png")) for kind in ("", "-healthy"))
    assert 0 < (drawn != twin).mean() < 0.3
    assert json.loads((tmp_path / "out/0000.json").read_text())["solver"] == "ddim"


def test_below_min_dice_is_redrawn_with_new_seeds(
    run: Run, organs: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("generate", "--organs", organs, "--model", tiny_model_folder, "--steps", 2, "--seed", 10, "-n", 3)
    limits = ("--min-dice", 1, "--retries", 2, "--batch-size", 2)  # an untrained segmenter never agrees
    assert run(*call, *limits, "--out", tmp_path / "out") == 0
    records = [json.loads((tmp_path / f"out/000{i}.json").read_text()) for i in range(3)]
    for number, record in enumerate(records):
        assert record["accepted"] is False
        assert record["seed"] in {10 + number + 3 * attempt for attempt in range(3)}
    assert "below --min-dice 1.0 after 2 retries" in capsys.readouterr().out


def test_overwrite_replaces_files_of_the_same_name_only(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "0000.png").write_text("old")
    call = ("generate", "--model", tiny_model_folder, "--steps", 2, "--out", out)
    assert run(*call) == 2
    assert (out / "0000.png").read_text() == "old"
    assert run(*call, "--overwrite") == 0
    assert names(out) == ["0000.json", "0000.png", "notes.txt", "sheet.png"]
    assert picture(out / "0000.png").size == (64, 64)
    assert (out / "notes.txt").read_text() == "mine"


def test_segment_an_image_and_a_folder(
    run: Run, phantom_folder: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = phantom_folder / "chest-00.png"
    assert run("segment", image, "--out", tmp_path / "one.png", "--model", tiny_model_folder) == 0
    assert run("segment", phantom_folder, "--out", tmp_path / "all", "--model", tiny_model_folder) == 0
    assert names(tmp_path / "all") == [f"chest-{i:02d}.png" for i in range(12)]
    single = read_organ_mask(tmp_path / "one.png")
    assert single.shape == (64, 64)
    np.testing.assert_array_equal(single, read_organ_mask(tmp_path / "all/chest-00.png"))
    assert "one.png  implausible: " in capsys.readouterr().out  # untrained


def test_prepare_then_train(
    run: Run, phantom_folder: Path, phantom_data: Path, tiny_model_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    prepared, out = tmp_path / "prepared", tmp_path / "run"
    call = ("prepare", "folder", phantom_folder, prepared, "--image-size", 64)
    assert run(*call, "--segmenter", tiny_model_folder) == 0
    shown = capsys.readouterr().out
    assert "12  images" in shown
    assert "4  Pneumonia" in shown
    assert len(PreparedDataset([prepared], "train")) == 9
    assert run(*call) == 2  # begun with masks
    assert "begun with other settings" in capsys.readouterr().err

    options = ("--data", phantom_data, "--preset", "tiny", "--mixed-precision", "no", "--out", out)
    assert run("train", "segmenter", *options, "--steps", 2, "--batch-size", 3) == 0
    config = json.loads((out / "training/segmenter/config.json").read_text())["stage"]
    assert (config["steps"], config["batch_size"], config["learning_rate"]) == (2, 3, 1e-3)
    assert (out / "segmenter/config.json").is_file()
    assert "dice heart" in capsys.readouterr().out
    assert run("train", "segmenter", *options) == 2
    assert "already holds a run; give --resume" in capsys.readouterr().err
    assert run("train", "segmenter", *options, "--resume") == 0
