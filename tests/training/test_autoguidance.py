"""A U-Net that learns what guidance away from a weaker one says."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from xreal.config import PRESETS
from xreal.errors import InputError, TrainingError
from xreal.models.folder import write_index
from xreal.pipeline import XRealPipeline
from xreal.training.autoguidance import AutoguidanceStage
from xreal.training.backbone import LatentBatch
from xreal.training.forecast import forecast
from xreal.training.loop import train
from xreal.training.stages import build_stage
from xreal.vocabulary import Finding

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def adapted(phantom_data: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an adapter that acts."""
    folder = tmp_path_factory.mktemp("adapted")
    preset = TINY.with_stage("joint", learning_rate=0.02)
    train(build_stage("joint", preset, [phantom_data], folder, start=tiny_model_folder), folder, mixed_precision="no")
    assert write_index(folder)
    return folder


@pytest.fixture
def stage(phantom_data: Path, adapted: Path, tiny_model_folder: Path, tmp_path: Path) -> AutoguidanceStage:
    preset = TINY.with_stage("autoguidance", steps=40, learning_rate=5e-3, validate_every=40)
    built = build_stage("autoguidance", preset, [phantom_data], tmp_path, start=adapted, weak=tiny_model_folder)
    assert isinstance(built, AutoguidanceStage)
    return built


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return {key: value for path in (folder / name).glob("*.safetensors") for key, value in load_file(path).items()}


def guided(stage: AutoguidanceStage, batch: LatentBatch) -> tuple[torch.Tensor, torch.Tensor]:
    stage.autocast = nullcontext  # in float32, so that sums come out
    noisy = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    return stage._guided(noisy, torch.full((len(noisy),), 400), batch, stage._known(batch))


def test_only_the_unet_learns_and_the_folder_is_the_whole_model(
    stage: AutoguidanceStage, adapted: Path, tmp_path: Path, organ_mask: np.ndarray
) -> None:
    assert stage.validate()["unlearnt"] == pytest.approx(1, abs=1e-5)
    metrics = train(stage, tmp_path, mixed_precision="no")
    assert metrics["unlearnt"] < 0.7
    assert write_index(tmp_path)
    before, after = weights(adapted, "unet"), weights(tmp_path, "unet")
    assert any(not torch.equal(before[key], after[key]) for key in before)
    for name in ("vae", "text_encoder", "anatomy_adapter"):
        kept = weights(adapted, name)
        assert kept
        assert all(torch.equal(value, kept[key]) for key, value in weights(tmp_path, name).items())
    pipeline = XRealPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(organ_mask, [], [0], steps=2).images.shape == (1, 64, 64)


def test_it_is_guided_away_from_the_weaker_one(stage: AutoguidanceStage) -> None:
    batch = stage._held_out(stage.validation_masked)
    batch = batch._replace(ids=stage._no_prompts(len(batch.latents)))
    noisy = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    before, wanted = guided(stage, batch)
    timesteps = torch.full((len(noisy),), 400)
    with torch.no_grad():
        weak = stage.weak(noisy, timesteps, stage.weak_embeds.expand(len(noisy), -1, -1)).sample
    assert torch.allclose(wanted, 2 * before - weak, atol=1e-5)  # w = 2; the weaker one has no adapter
    assert not torch.allclose(wanted, before, atol=1e-3)


def test_without_organs_it_stays_as_it_was(stage: AutoguidanceStage) -> None:
    batch = stage._held_out(stage.validation_masked)
    organs = batch.masks["organ_mask"].clone()
    organs[0] = 0
    before, wanted = guided(stage, batch._replace(masks={"organ_mask": organs}))
    assert torch.equal(wanted[0], before[0])
    assert not torch.allclose(wanted[1:], before[1:], atol=1e-3)


def test_what_a_prompt_and_a_place_change_stays(stage: AutoguidanceStage) -> None:
    plain = stage._held_out(stage.validation_masked)
    plain = plain._replace(ids=stage._no_prompts(len(plain.latents)))
    lesions = torch.zeros(len(plain.latents), 1, *plain.latents.shape[-2:])
    lesions[..., 2:5, 2:5] = 1
    asked = plain._replace(
        ids=stage.finding_ids[Finding.PNEUMONIA].expand(len(plain.latents), -1),
        masks=plain.masks | {"lesions": lesions},
    )
    (before, wanted), (before_asked, wanted_asked) = guided(stage, plain), guided(stage, asked)
    assert not torch.allclose(before, before_asked, atol=1e-4)
    assert torch.allclose(wanted_asked - before_asked, wanted - before, atol=1e-5)


def test_a_weaker_one_with_an_adapter_is_told_less_of_organs(
    phantom_data: Path, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guided away from itself, a U-Net is guided to the mask alone; and nowhere once it is told as much."""
    stage = build_stage("autoguidance", TINY, [phantom_data], tmp_path, start=adapted, weak=adapted)
    assert isinstance(stage, AutoguidanceStage)
    before, wanted = guided(stage, stage._held_out(stage.validation_masked))
    assert not torch.allclose(before, wanted, atol=1e-4)
    monkeypatch.setattr(AutoguidanceStage, "weak_organs", 1.0)
    before, wanted = guided(stage, stage._held_out(stage.validation_masked))
    assert torch.allclose(before, wanted, atol=1e-6)


def test_the_sheet_shows_before_and_now(stage: AutoguidanceStage) -> None:
    masks, before, now = stage.sheet()
    assert len(masks) == len(before) == len(now) == len(stage.validation_masked)
    assert all(np.array_equal(one, other) for one, other in zip(before, now, strict=True))


def test_the_forecast_counts_what_is_frozen_too(stage: AutoguidanceStage, adapted: Path, phantom_data: Path) -> None:
    said = forecast("autoguidance", TINY, [phantom_data])
    own = list(stage.network.parameters())
    assert said.trained == sum(p.numel() for p in own if p.requires_grad)
    frozen = sum(p.numel() for p in own if not p.requires_grad)
    adapter = sum(p.numel() for p in stage.steering.parameters())
    assert said.frozen == frozen + 2 * said.trained + adapter  # the one before, and a weaker one with its adapter


def test_what_it_needs(phantom_data: Path, adapted: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--weak"):
        build_stage("autoguidance", TINY, [phantom_data], tmp_path, start=adapted)
    with pytest.raises(InputError, match="--weak"):
        build_stage("adversarial", TINY, [phantom_data], tmp_path, start=adapted, weak=adapted)
    with pytest.raises(InputError, match="--start"):
        build_stage("autoguidance", TINY, [phantom_data], tmp_path, weak=adapted)
    with pytest.raises(TrainingError, match="anatomy_adapter"):
        build_stage("autoguidance", TINY, [phantom_data], tmp_path, start=tiny_model_folder, weak=adapted)


def test_a_weaker_model_of_other_latents_is_refused(phantom_data: Path, adapted: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(adapted, tmp_path / "other"))
    path = next((other / "vae").glob("*.safetensors"))
    save_file({key: value + 0.1 for key, value in load_file(path).items()}, path)
    with pytest.raises(TrainingError, match="other latents"):
        build_stage("autoguidance", TINY, [phantom_data], tmp_path / "run", start=adapted, weak=other)
