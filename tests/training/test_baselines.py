"""The paper's baselines: trained, opened and sampled by the same commands as XReal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from xreal.config import PRESETS
from xreal.errors import DataError, InputError, ModelError, TrainingError
from xreal.masks.lesions import Lesion
from xreal.masks.organs import write_organ_mask
from xreal.models.folder import read_index, write_index
from xreal.models.signal_leak import SignalLeak
from xreal.models.texture import Texture
from xreal.pipeline import XRealPipeline
from xreal.training.loop import train
from xreal.training.stages import build_stage

TINY = PRESETS["tiny"].with_stage("concat", learning_rate=0.01).with_stage("controlnet", learning_rate=0.01)
NAMES = ("concat", "controlnet")


def make(name: str, data: Path, model: Path, out: Path, **options: object) -> Path:
    stage = build_stage(name, TINY, [data], out, autoencoder=model, start=model if name == "controlnet" else None)
    assert np.isfinite(train(stage, out, mixed_precision="no", **options)["validation_loss"])
    return out


@pytest.fixture(scope="module")
def models(phantom_data: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = {}
    for name in NAMES:
        out[name] = make(name, phantom_data, tiny_model_folder, tmp_path_factory.mktemp("baselines") / name)
        assert write_index(out[name])
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}.{key}": value
        for path in folder.glob("*/*.safetensors")
        for key, value in load_file(path).items()
    }


def test_folder_is_a_whole_model_and_says_how_anatomy_is_controlled(models: dict[str, Path]) -> None:
    assert "anatomy_controller" not in read_index(models["controlnet"])
    assert read_index(models["controlnet"])["controlnet"] == "ControlNetModel"
    assert read_index(models["concat"])["unet"] == "PatchUNet2DConditionModel"
    assert json.loads((models["concat"] / "unet/config.json").read_text())["organ_channels"] == 4


def test_controlnet_leaves_the_model_as_it_was(models: dict[str, Path], tiny_model_folder: Path) -> None:
    before, after = weights(tiny_model_folder), weights(models["controlnet"])
    same = [key for key in after if not key.startswith("controlnet.")]
    assert {key.split(".")[0] for key in same} == {"vae", "unet", "text_encoder", "segmenter"}
    assert all(torch.equal(before[key], after[key]) for key in same)
    assert all(after[key].abs().max() > 0 for key in after if "controlnet_mid_block" in key)  # they begin at zero


@pytest.mark.parametrize("mode", ["regional", "two-pass"])
@pytest.mark.parametrize("name", NAMES)
def test_organs_and_lesions_change_the_picture(
    name: str, mode: str, models: dict[str, Path], organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    pipeline = XRealPipeline.from_pretrained(models[name])
    pipeline.set_progress_bar_config(disable=True)
    mirrored = np.ascontiguousarray(organ_mask[::-1])
    output = pipeline(np.stack([organ_mask, mirrored]), [[lesion_in()], []], [1, 1], steps=4, mode=mode)
    assert output.priors is None
    assert output.healthy is not None
    assert np.abs(output.healthy[0] - output.healthy[1]).max() > 1e-4  # one seed, two masks
    assert np.abs(output.images[0] - output.healthy[0]).max() > 1e-4
    alone = pipeline(mirrored, [], [1], steps=4, mode=mode)
    np.testing.assert_allclose(alone.images[0], output.healthy[1], atol=2e-5)  # each image its own mask, in any batch
    without = pipeline(None, [], [1], steps=4, mode=mode)
    assert np.abs(without.images[0] - alone.images[0]).max() > 1e-4


def test_controlnet_without_a_mask_is_the_model_alone(models: dict[str, Path], tiny_model_folder: Path) -> None:
    pictures = []
    for folder in (models["controlnet"], tiny_model_folder):
        pipeline = XRealPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        pictures.append(pipeline(None, [], [3], steps=3).images)
    np.testing.assert_array_equal(*pictures)


def test_what_belongs_to_an_autoencoder_goes_along_with_it(
    phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    Texture(2, 2).save_pretrained(model / "texture")
    SignalLeak(2, 4, 8).save_pretrained(model / "signal_leak")
    assert write_index(model)
    for name in NAMES:
        build_stage(name, TINY, [phantom_data], tmp_path / name, autoencoder=model, start=model).export(tmp_path / name)
        kept = {key for key in weights(model) if key.startswith(("texture.", "signal_leak."))}
        assert weights(tmp_path / name).keys() >= kept


def test_concat_begins_as_the_backbone_it_starts_from(
    phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = tiny_model_folder
    stage = build_stage("concat", TINY, [phantom_data], tmp_path, autoencoder=model, start=model)
    own = stage.network.eval()
    theirs = XRealPipeline.from_pretrained(model)
    latents, mask = torch.randn(2, 4, 8, 8), torch.ones(2, 64, 64, dtype=torch.uint8)
    ids, timesteps = stage.input_ids[:2], torch.tensor([500, 20])
    embeds = theirs.text_encoder(ids, return_dict=False)[0]
    wanted = theirs.unet(latents, timesteps, embeds).sample
    torch.testing.assert_close(own(latents, timesteps, ids, organ_mask=mask), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_command_line_draws(
    name: str, models: dict[str, Path], organ_mask: np.ndarray, tmp_path: Path, run: Callable[..., int]
) -> None:
    write_organ_mask(tmp_path / "organs.png", organ_mask)
    lesion = "Pneumonia=box:12,20,24,32"
    arguments = ["--organs", tmp_path / "organs.png", "--lesion", lesion, "--steps", 2, "--out", tmp_path / "out"]
    assert run("generate", "--model", models[name], *arguments) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"0000.png", "0000-healthy.png", "sheet.png"}


@pytest.mark.parametrize("name", NAMES)
def test_resumed_run_ends_with_the_same_weights(
    name: str, models: dict[str, Path], phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    def stop(step: int, total: int, parts: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(name, phantom_data, tiny_model_folder, tmp_path, report=stop)
    make(name, phantom_data, tiny_model_folder, tmp_path, resume=True)
    ours, theirs = weights(tmp_path), weights(models[name])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_cannot_be_trained_is_refused(
    phantom_data: Path, phantom_folder: Path, tiny_model_folder: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    from xreal.data.prepare import prepare

    with pytest.raises(InputError, match=r"give --start FOLDER"):
        build_stage("controlnet", TINY, [phantom_data], tmp_path)
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    for name in NAMES:
        with pytest.raises(TrainingError, match=f"holds another model's unet/; give an --out of its own to {name}"):
            build_stage(name, TINY, [phantom_data], model, start=model)
    prepare("folder", phantom_folder, tmp_path / "bare", 64)
    with pytest.raises(DataError, match="no organ masks in the prepared data"):
        make("concat", tmp_path / "bare", model, tmp_path / "concat")
    prepare("folder", phantom_folder, tmp_path / "small", 32, lambda image: np.ones((32, 32), np.uint8))
    with pytest.raises(TrainingError, match=r"draws 64 pixels a side, the data have 32; run `xreal prepare --image"):
        make("controlnet", tmp_path / "small", model, tmp_path / "controlnet")


def test_a_text_model_alone_says_what_is_missing(models: dict[str, Path], organ_mask: np.ndarray) -> None:
    pipeline = XRealPipeline.from_pretrained(models["controlnet"])
    pipeline.controlnet = None
    with pytest.raises(ModelError, match="has no anatomy_controller; train one"):
        pipeline(organ_mask, [], [0])
