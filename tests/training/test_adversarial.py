"""The last steps of trajectories, taught by a judge."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import xreal.training.adversarial as adversarial
from xreal.config import PRESETS
from xreal.control.blending import StepNoise
from xreal.errors import InputError, TrainingError
from xreal.models.folder import write_index
from xreal.models.latent_judge import LatentJudge, unet_features
from xreal.pipeline import XRealPipeline
from xreal.training.loop import train
from xreal.training.stage import Stage
from xreal.training.stages import build_stage

TINY = PRESETS["tiny"]


@pytest.fixture(autouse=True)
def few_trajectories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial, "_TRAJECTORIES", 72)


@pytest.fixture(scope="module")
def adapted(phantom_data: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an adapter that acts, and with findings and organs in its training data."""
    folder = tmp_path_factory.mktemp("adapted")
    stage = build_stage(
        "joint", TINY.with_stage("joint", learning_rate=0.05), [phantom_data], folder, start=tiny_model_folder
    )
    train(stage, folder, mixed_precision="no")
    write_index(folder)
    return folder


@pytest.fixture
def stage(phantom_data: Path, adapted: Path, tmp_path: Path) -> Stage:
    return build_stage("adversarial", TINY, [phantom_data], tmp_path / "run", start=adapted)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return {key: value for path in (folder / name).glob("*.safetensors") for key, value in load_file(path).items()}


def test_only_the_unet_learns_and_the_folder_is_the_whole_model(
    stage: Stage, adapted: Path, tmp_path: Path, organ_mask: np.ndarray
) -> None:
    metrics = train(stage, tmp_path, mixed_precision="no")
    assert set(metrics) >= {"validation_loss", "detail", "detail_before"}
    assert metrics["detail"] != metrics["detail_before"]
    assert write_index(tmp_path)
    before, after = weights(adapted, "unet"), weights(tmp_path, "unet")
    assert any(not torch.equal(before[key], after[key]) for key in before)
    for name in ("vae", "text_encoder", "anatomy_adapter"):
        kept = weights(adapted, name)
        assert all(torch.equal(value, kept[key]) for key, value in weights(tmp_path, name).items())
    pipeline = XRealPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(organ_mask, [], [0], steps=2).images.shape == (1, 64, 64)


def test_an_untaught_network_ends_where_the_one_before_did(stage: Stage) -> None:
    batch = stage.batch([0, 40, 71], torch.Generator())
    with torch.no_grad():
        ended = stage._ended(batch, stage._known(batch.batch))
    assert torch.allclose(ended, batch.before.float(), atol=0.02)  # what is kept is float16
    assert not torch.allclose(ended, batch.latents.float(), atol=0.2)


def test_the_pipeline_walks_the_same_way(stage: Stage, adapted: Path) -> None:
    """What the stage teaches is where a call of the pipeline with the same noise ends."""
    index = next(i for i in range(72) if stage.trajectories.batch.masks["organ_mask"][i].any()
                 and torch.equal(stage.trajectories.batch.ids[i], stage.unprompted_ids[0]))  # fmt: skip
    batch = stage.batch([index], torch.Generator()).batch
    pipeline = XRealPipeline.from_pretrained(adapted)
    pipeline.set_progress_bar_config(disable=True)
    seen = {}

    def keep(pipe: object, step: int, timestep: torch.Tensor, latents: dict[str, torch.Tensor]) -> dict:
        seen[step] = latents["latents"]
        return latents

    pipeline(batch.masks["organ_mask"].numpy(), [], [3], texture=0.0, callback_on_step_end=keep)
    noise = StepNoise([3], tuple(batch.latents.shape[1:]), torch.device("cpu"), fixed=True).start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adversarial, "white_noise", lambda like, generator: noise)
        walked = stage._walked(batch, torch.Generator())
    assert torch.allclose(walked.latents.float(), seen[3], atol=0.02)
    assert torch.allclose(walked.before.float(), seen[5], atol=0.02)


def test_both_losses_teach_their_own_network(stage: Stage) -> None:
    generator = torch.Generator().manual_seed(0)
    losses = stage.losses(stage.batch(range(4), generator), 0, generator)
    unet, judge = stage.components["unet"], stage.networks["judge"]
    first = next(losses)
    assert first.network == "adversarial"
    first.value.backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())
    assert all(parameter.grad is None for parameter in stage.before.parameters())
    assert first.parts["coarse"] < 1e-3  # what is coarse is as before
    unet.zero_grad()
    judge.zero_grad()
    second = next(losses)
    assert second.network == "judge"
    second.value.backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in judge.parameters())
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_the_judge_learns_to_tell(stage: Stage) -> None:
    judge: LatentJudge = stage.networks["judge"]
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3)
    told = []
    for step in range(30):
        generator = torch.Generator().manual_seed(step)
        losses = stage.losses(stage.batch(range(12), generator), step, generator)
        next(losses)
        second = next(losses)
        optimizer.zero_grad()
        second.value.backward()
        optimizer.step()
        told.append(second.parts["right"])
    assert np.mean(told[-5:]) > 0.8


def test_each_network_learns_at_its_own_pace(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, unet = stage.networks["judge"], stage.components["unet"]
    before = [[one.clone() for one in part.parameters()] for part in (judge, unet)]
    monkeypatch.setattr(type(stage), "paces", {"judge": 0.0})
    train(stage, tmp_path, mixed_precision="no")
    still = [
        all(torch.equal(old, new) for old, new in zip(was, part.parameters(), strict=True))
        for was, part in zip(before, (judge, unet), strict=True)
    ]
    assert still == [True, False]


def test_features_are_those_of_every_block(adapted: Path) -> None:
    unet = XRealPipeline.from_pretrained(adapted).unet
    seen = unet_features(unet, torch.randn(2, 4, 8, 8), torch.tensor(5), torch.randn(2, 3, 16))
    assert len(seen) == 2 + len(unet.down_blocks) + len(unet.up_blocks)
    assert not unet.conv_in._forward_hooks
    judge = LatentJudge(4, seen)
    scores = judge(torch.randn(2, 4, 8, 8), seen)
    assert len(scores) == 1 + len(seen)
    assert all(len(one) == 2 and one.dtype == torch.float32 for one in scores)


def test_it_needs_a_trained_model_and_another_folder(
    phantom_data: Path, adapted: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--start"):
        build_stage("adversarial", TINY, [phantom_data], tmp_path)
    with pytest.raises(InputError, match="--start"):
        build_stage("adversarial", TINY, [phantom_data], adapted, start=adapted)
    with pytest.raises(TrainingError, match="anatomy_adapter"):
        build_stage("adversarial", TINY, [phantom_data], tmp_path, start=tiny_model_folder)
