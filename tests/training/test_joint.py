"""The diffusion model trained on together with its adapter, which tells it where organs and findings are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from xreal.config import PRESETS
from xreal.data.contract import Box, Sample
from xreal.data.phantom import Phantom
from xreal.data.prepared import PreparedDataset, write_shard
from xreal.models.folder import load_autoencoder, write_index
from xreal.pipeline import XRealPipeline
from xreal.training.backbone import BackboneStage
from xreal.training.loop import train
from xreal.training.stages import build_stage
from xreal.training.transplant import SIMULATED, TRANSPLANT
from xreal.vocabulary import Finding

TINY = PRESETS["tiny"].with_stage("joint", learning_rate=0.01)
TRAINED = ("anatomy_adapter", "text_encoder", "unet")


@pytest.fixture(scope="module")
def boxed(phantoms: list[Phantom], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of which every other has a finding, in a known place."""
    folder = tmp_path_factory.mktemp("boxed")
    places = (Box(Finding.LUNG_OPACITY, x=12, y=24, width=12, height=16),)
    samples = [
        Sample(
            (255 * one.image).astype(np.uint8),
            one.organ_mask,
            findings=(Finding.PNEUMONIA if i % 2 else Finding.NO_FINDING,),
            boxes=places if i % 2 else (),
            image_id=f"{i}",
        )
        for i, one in enumerate(phantoms)
    ]
    for split in ("train", "val"):
        write_shard(folder / f"{split}-00000.parquet", samples)
    return folder


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return {key: value for path in (folder / name).glob("*.safetensors") for key, value in load_file(path).items()}


def test_all_three_networks_learn_and_the_folder_is_the_whole_model(
    boxed: Path, tiny_model_folder: Path, tmp_path: Path, organ_mask: np.ndarray
) -> None:
    # Steps enough for one that shows a finding's place, whatever the seed.
    preset = TINY.with_stage("joint", steps=16, validate_every=16)
    stage = build_stage("joint", preset, [boxed], tmp_path, start=tiny_model_folder)
    metrics = train(stage, tmp_path, mixed_precision="no")
    assert set(metrics) == {"validation_loss", "box_loss_told", "box_loss_untold"}
    assert metrics["box_loss_told"] != metrics["box_loss_untold"]
    assert write_index(tmp_path)
    for name in ("text_encoder", "unet"):
        before, after = weights(tiny_model_folder, name), weights(tmp_path, name)
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[key], after[key]) for key in before)
    frozen = weights(tiny_model_folder, "vae")
    assert all(torch.equal(value, frozen[key]) for key, value in weights(tmp_path, "vae").items())
    first = weights(tmp_path, "anatomy_adapter")["adapter.conv_in.weight"]
    assert first[:, -first.shape[1] // 5 :].any()  # the plane of lesions, zero before
    pipeline = XRealPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(organ_mask, [], [0], steps=2).settings["anatomy"]["adapter"] > 0


def test_what_the_network_is_told(boxed: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    stage = build_stage("joint", TINY, [boxed], tmp_path, start=tiny_model_folder)
    batch = stage.batch([0, 1] * 200, torch.Generator().manual_seed(0))
    organs, lesions = (batch.masks[name].flatten(1).any(1) for name in ("organ_mask", "lesions"))
    assert not lesions[0::2].any()  # no finding, no place
    prompted = ~(batch.ids == stage.unprompted_ids).all(1)
    assert not lesions[~prompted].any()  # a place is where the prompt's finding is
    assert lesions[1::2][prompted[1::2]].float().mean().item() == pytest.approx(0.8, abs=0.1)
    assert organs.float().mean().item() == pytest.approx(0.8, abs=0.1)


def test_a_transplanted_opacity_has_its_place_with_and_without_a_prompt(
    boxed: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    write_shard(
        more / "train-00000.parquet", [replace(one, source=TRANSPLANT) for one in PreparedDataset([boxed], "val")]
    )
    stage = build_stage("joint", TINY, [boxed, more], tmp_path / "run", start=tiny_model_folder)
    count = len(PreparedDataset([boxed], "val"))
    batch = stage.batch([1, count + 1] * 200, torch.Generator().manual_seed(0))
    told = batch.masks["lesions"].flatten(1).any(1)
    prompted = ~(batch.ids == stage.unprompted_ids).all(1)
    assert stage.sampling_weights[count + 1] == stage.sampling_weights[0]  # as often as a healthy one
    assert stage.sampling_weights[count + 1] <= stage.sampling_weights[1]
    assert told[1::2].all()
    assert prompted[1::2].float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (batch.weights[1::2].flatten(1).amax(1) > 1).all()
    assert not told[0::2][~prompted[0::2]].any()
    assert not told[0::2].all()


def test_a_simulated_nodule_has_always_its_place_and_to_half_its_name(
    boxed: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    write_shard(
        more / "train-00000.parquet", [replace(one, source=SIMULATED) for one in PreparedDataset([boxed], "val")]
    )
    stage = build_stage("joint", TINY, [boxed, more], tmp_path / "run", start=tiny_model_folder)
    batch = stage.batch([len(PreparedDataset([boxed], "train")) + 1] * 200, torch.Generator().manual_seed(0))
    assert batch.masks["lesions"].flatten(1).any(1).all()
    unnamed = (batch.ids == stage.unprompted_ids).all(1).float().mean().item()
    assert unnamed == pytest.approx(0.5, abs=0.1)


def test_who_is_told_places_learns_names_of_labels_too(
    boxed: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xreal.training.backbone._ENOUGH_BOXES", 1)
    more = tmp_path / "more"
    more.mkdir()
    opacity = (Finding.LUNG_OPACITY,)
    labelled = [replace(one, findings=opacity, boxes=()) for one in PreparedDataset([boxed], "train") if one.boxes]
    write_shard(more / "train-00000.parquet", labelled)
    untold = BackboneStage(TINY, [boxed, more], load_autoencoder(tiny_model_folder), tmp_path / "run")
    told = build_stage("joint", TINY, [boxed, more], tmp_path / "run", start=tiny_model_folder)
    assert set(untold.findings[-len(labelled) :]) == {()}
    assert set(told.findings[-len(labelled) :]) == {opacity}


def test_it_goes_on_from_an_adapter(boxed: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    once = tmp_path / "once"
    stage = build_stage("joint", TINY, [boxed], once, start=tiny_model_folder)
    train(stage, once, mixed_precision="no")
    write_index(once)
    again = build_stage("joint", TINY, [boxed], tmp_path / "again", start=once)
    kept = weights(once, "anatomy_adapter")
    assert all(torch.equal(value, kept[key]) for key, value in again.steering.state_dict().items())
    assert all(parameter.requires_grad for parameter in again.network.parameters())
    assert again.network.training
