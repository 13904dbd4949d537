"""The command line refuses: exit status 2, one line that says what to do, and nothing written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xreal.masks.organs import write_organ_mask

Run = Callable[..., int]


def prepare_bad_files(folder: Path, organ_mask: np.ndarray, model: Path) -> None:
    """Write one file of every kind that is to be refused; the working folder of the calls below."""
    write_organ_mask(folder / "organs.png", organ_mask)
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(folder / "unknown.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "rgb.png")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "empty.png")
    Image.fromarray(np.zeros((64, 64), bool)).save(folder / "one-bit.png")
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(folder / "small.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(folder / "cut.png")
    os.truncate(folder / "cut.png", (folder / "cut.png").stat().st_size // 2)
    (folder / "full").mkdir()
    (folder / "full/notes.txt").touch()
    shutil.copytree(model, folder / "model")
    shutil.copytree(model, folder / "incomplete", ignore=shutil.ignore_patterns("unet"))
    shutil.copytree(model, folder / "broken")
    weights = next((folder / "broken/vae").glob("*.safetensors"))
    os.truncate(weights, weights.stat().st_size // 2)


BAD_INPUT = {
    "unknown labels": ("--organs unknown.png", "unknown.png holds value 7; expected 0 to 4 (Organ) or 0, 64, 128"),
    "colour mask": ("--organs rgb.png", "mode 'RGB'; expected grey or indexed colour"),
    "1-bit mask": ("--organs one-bit.png", "mode '1'; expected grey or indexed colour"),
    "empty mask": ("--organs empty.png", "all background; expected at least one organ"),
    "missing mask": ("--organs none.png", "none.png does not exist"),
    "cut-off mask": ("--organs cut.png", "cut.png cannot be read"),
    "lesion outside": ("--lesion Mass=box:50,10,70,20", "not inside the image, which is 64 x 64"),
    "lesion without area": ("--lesion Mass=box:10,10,10,20", "it has no area"),
    "lesion without place": ("--lesion Mass", "lesion 'Mass' is not understood; expected Finding=PLACE"),
    "unknown finding": ("--lesion Pnuemonia=box:1,1,9,9", "Did you mean 'Pneumonia'? Known findings: No Finding, Atel"),
    "no finding": ("--lesion Normal=box:1,1,9,9", "'No Finding' has no place"),
    "strength": ("--lesion Mass=box:1,1,9,9@9", "strength of Mass is 9.0; expected above 0 and at most 4"),
    "cut-off paint": ("--lesion Mass=cut.png", "cut.png cannot be read"),
    "black paint": ("--lesion Mass=empty.png", "all zero"),
    "small paint": ("--lesion Mass=small.png", "small.png is 32 x 32 (width x height); expected 64 x 64"),
    "negative seed": ("--seed -1", "seed -1 is out of range; expected 0 to"),
    "zero steps": ("--steps 0", "steps is 0"),
    "too many steps": ("--steps 1000", "steps is 1000; expected 1 to 999"),
    "negative guidance": ("--guidance -2", "guidance is -2.0; expected a number ≥ 0"),
    "lesion window": ("--lesion-start 0.6 --lesion-until 0.3", "lesion_start is 0.6, lesion_until 0.3: no lesion"),
    "braces": ("--prompt {finding}", "prompt '{finding}': braces stand for nothing but {findings}"),
    "mode": ("--mode inpaint", "unknown mode 'inpaint'; expected one of regional, two-pass"),
    "solver": ("--solver heun", "unknown solver 'heun'; expected one of ddim, dpm++, unipc, euler"),
    "eta": ("--eta 0.5", "eta is 0.5 with solver dpm++"),
    "blend": ("--anatomy-outside 1.5", "anatomy blend outside is 1.5; expected 0 to 1"),
    "number": ("-n 0", "expected --number ≥ 1"),
    "batch size": ("--batch-size 0", "--batch-size is '0'; expected auto, or a number from 1 on"),
    "backend": ("--backend tpu", "unknown backend 'tpu'; expected one of auto, torch, torch-bf16, openvino"),
    "min-dice": ("--min-dice 2", "--min-dice from 0 to 1"),
    "no model": ("--model nowhere", "nowhere is neither a folder nor a bundled model (cxr-256)"),
    "incomplete model": ("--model incomplete", "incomplete is incomplete: folder unet is missing"),
    "broken model": ("--model broken", "vae cannot be opened"),
    "no folder": ("--model organs.png", "organs.png is neither a folder nor a bundled model"),
    "full out": ("--out full", "full already holds files; choose an empty folder, or use --overwrite"),
    "out is a file": ("--out organs.png", "organs.png is a file; expected a folder"),
    "out below a file": ("--out organs.png/out", "cannot be written to"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_said_and_nothing_written(
    arguments: str,
    said: str,
    run: Run,
    organ_mask: np.ndarray,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_bad_files(tmp_path, organ_mask, tiny_model_folder)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    folders = {path for path in tmp_path.rglob("*") if path.is_dir()}
    call = ["--organs", "organs.png", "--model", "model", "--steps", "2", "--out", "out"]
    for word in arguments.split():
        if word.startswith("--") and word in call:  # given instead of the good one
            del call[call.index(word) : call.index(word) + 2]
    assert run("generate", *call, *arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("xreal: ")
    assert said in error
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert folders == {path for path in tmp_path.rglob("*") if path.is_dir()}


def test_usage_errors_name_the_option(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "--steps", "many", "--out", "out") == 2
    assert "--steps" in capsys.readouterr().err


def test_segment_refuses(
    run: Run, phantom_folder: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes((phantom_folder / "chest-00.png").read_bytes()[:500])
    out = tmp_path / "out.png"
    shutil.copytree(tiny_model_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("segmenter"))
    cases = (
        (cut, tiny_model_folder, "cut.png cannot be read"),
        (tmp_path / "nowhere", tiny_model_folder, "is no picture and no folder of pictures"),
        (phantom_folder, tmp_path / "bare", "holds no segmenter/; train one"),
    )
    xray = tmp_path / "chest.png"
    shutil.copy(phantom_folder / "chest-00.png", xray)
    for source, place in ((xray, xray), (tmp_path, tmp_path)):
        before = xray.read_bytes()
        assert run("segment", source, "--out", place, "--model", tiny_model_folder) == 2
        assert "chest.png is an X-ray, which its mask would overwrite" in capsys.readouterr().err
        assert xray.read_bytes() == before
    for source, model, said in cases:
        assert run("segment", source, "--out", out, "--model", model) == 2
        assert said in capsys.readouterr().err
        assert not out.exists()


def test_one_picture_that_cannot_be_read_does_not_stop_the_others(
    run: Run, phantom_folder: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "c.png"):
        shutil.copy(phantom_folder / "chest-00.png", tmp_path / "in" / name)
    (tmp_path / "in/b.png").write_text("no picture")
    assert run("segment", tmp_path / "in", "--out", tmp_path / "out", "--model", tiny_model_folder) == 2
    assert "1 of 3 pictures have no mask" in (said := capsys.readouterr().err)
    assert "b.png cannot be read as PNG, JPEG, TIFF or DICOM (it is none of these)" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("variation", "--dry-run"), "variation is worked out from the data at once; it takes neither --dry-run"),
        (("film", "--resume"), "nor --resume"),
        (("segmenter", "--learning-rate", "nan"), "--learning-rate is nan; expected a number above 0"),
        (("segmenter", "--mixed-precision", "foo"), "expected one of auto, no, bf16, fp16"),
        (("segmenter", "--max-minutes", "0"), "--max-minutes is 0.0"),
        (("segmenter", "--steps", "0"), "--steps"),
        (("segmenter", "--batch-size", "0"), "--batch-size"),
        (("autoencoder", "--preset", "cxr-256"), "64 pixels a side, the preset cxr-256 is for 256"),
        (("backbone", "--autoencoder", "cxr-256"), "has 8 latent channels, the preset tiny"),
        (("lora",), "controlnet, judge-segmenter, encoder, variation, signal-leak, film"),
    ],
)
def test_train_refuses_options(
    options: tuple[str, ...],
    said: str,
    run: Run,
    phantom_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = ("train", options[0], "--preset", "tiny", "--data", phantom_data, "--out", tmp_path / "run", *options[1:])
    assert run(*call) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "preset", "data", "said"),
    [
        ("unet", "tiny", "", "unknown stage 'unet'; expected one of segmenter, autoencoder, backbone, anatomy"),
        ("segmenter", "huge", "", "unknown preset 'huge'; expected one of cxr-256, paper, tiny"),
        ("segmenter", "tiny", "nowhere", "is no folder; expected a data set written by `xreal prepare`"),
        ("backbone", "tiny", "", "holds no vae/; run `xreal train autoencoder`"),
    ],
)
def test_train_refuses(
    stage: str, preset: str, data: str, said: str, run: Run, phantom_data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    call = ("train", stage, "--preset", preset, "--data", phantom_data / data, "--out", tmp_path / "run")
    assert run(*call) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_prepare_refuses(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", "mimic", tmp_path, tmp_path / "out") == 2
    assert "unknown source 'mimic'; expected one of jsrt, nih-cxr14, folder" in capsys.readouterr().err
    assert run("prepare", "folder", tmp_path, tmp_path / "out", "--image-size", "0") == 2
    assert "image_size is 0" in capsys.readouterr().err
    assert run("prepare", "folder", tmp_path, tmp_path / "out") == 2
    assert "lies in" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
