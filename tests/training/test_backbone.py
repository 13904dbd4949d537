"""What the backbone stage does before it trains: balance, cached latents, a tokenizer that a run keeps."""

import itertools
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xreal.config import PRESETS
from xreal.data.prepared import PreparedDataset
from xreal.models.autoencoder import build_autoencoder
from xreal.training.backbone import BackboneStage, as_large, balanced_weights, evened_dropout, findings_alone
from xreal.vocabulary import Finding

TINY = PRESETS["tiny"]
CHANNELS = TINY.autoencoder.latent_channels
COMMON, RARE, RAREST = (Finding.NO_FINDING,), (Finding.EDEMA,), (Finding.HERNIA,)


def make(data: Path, cache: Path, seed: int = 0, copies: int = 0) -> BackboneStage:
    torch.manual_seed(seed)
    preset = TINY.with_stage("backbone", augmented_copies=copies)
    return BackboneStage(preset, [data], build_autoencoder(TINY.autoencoder, 64), cache)


def test_rare_findings_come_more_often() -> None:
    findings = [COMMON] * 400 + [RARE] * 100
    weights = balanced_weights(findings)
    assert (weights[-1] / weights[0]).item() == pytest.approx(2)  # √(400 / 100)
    assert balanced_weights(findings, power=0).unique().tolist() == [1]
    even = balanced_weights(findings, power=1)
    assert even[:400].sum().item() == pytest.approx(even[400:].sum().item())


def test_without_a_prompt_the_data_are_as_they_are() -> None:
    weights = torch.tensor([1.0] * 90 + [4.0] * 10)
    dropout = evened_dropout(weights, 0.3)
    drawn = weights / weights.sum()
    assert torch.allclose(drawn * dropout, torch.full((100,), 0.3 / 100))  # unprompted, each sample equally often
    assert evened_dropout(torch.tensor([0.01, 1.0]), 0.9).max() == 1
    assert not evened_dropout(weights, 0.0).any()


def test_the_rarest_of_several_findings_counts_and_few_are_not_repeated_endlessly() -> None:
    findings = [COMMON] * 400 + [RARE] * 99 + [(*RARE, *COMMON)] + [RAREST] * 2 + [()]
    weights = balanced_weights(findings, fewest=25)
    assert weights[499] == weights[498]
    assert (weights[500] / weights[498]).item() == pytest.approx(2)  # 2 images count as 25
    assert weights[-1] < weights[0]


def test_a_finding_with_boxes_is_taught_by_them_alone() -> None:
    labels = [RARE, RARE, (*RARE, *RAREST), COMMON, ()]
    boxed = [RARE, (), (), (), RAREST]
    assert findings_alone(labels, boxed, enough=1) == [RARE, (), (), COMMON, RAREST]
    assert findings_alone(labels, boxed, enough=2) == [RARE, RARE, (*RARE, *RAREST), COMMON, RAREST]


def test_latents_are_encoded_once_per_run(phantom_data: Path, tmp_path: Path) -> None:
    first = make(phantom_data, tmp_path)
    written = (tmp_path / "train" / "latents.npy").stat().st_mtime_ns
    again = make(phantom_data, tmp_path)
    assert (tmp_path / "train" / "latents.npy").stat().st_mtime_ns == written
    assert torch.equal(first.encoded.arrays["latents"], again.encoded.arrays["latents"])
    assert first.encoded.arrays["latents"].shape == (9, 1, CHANNELS, 8, 8)
    assert first.validation_latents.shape == (3, CHANNELS, 8, 8)


def test_another_autoencoder_or_more_copies_are_encoded_anew(phantom_data: Path, tmp_path: Path) -> None:
    first = make(phantom_data, tmp_path).encoded.arrays["latents"].clone()
    other = make(phantom_data, tmp_path, seed=1)
    assert not torch.equal(first, other.encoded.arrays["latents"])
    assert make(phantom_data, tmp_path, seed=1, copies=1).encoded.copies == 2


def test_augmented_copies_stand_beside_the_unchanged_one(phantom_data: Path, tmp_path: Path) -> None:
    plain, augmented = make(phantom_data, tmp_path / "a"), make(phantom_data, tmp_path / "b", copies=2)
    copies = augmented.encoded.arrays["latents"].float()
    assert copies.shape == (9, 3, CHANNELS, 8, 8)
    torch.testing.assert_close(copies[:, 0], plain.encoded.take("latents", range(9)))
    for one, other in itertools.combinations(range(3), 2):
        assert (copies[:, one] - copies[:, other]).abs().amax((1, 2, 3)).min() > 1e-3


def test_prompts_are_dropped_at_the_presets_share(phantom_data: Path, tmp_path: Path) -> None:
    stage = make(phantom_data, tmp_path)
    indices = stage.sampling_weights.multinomial(4000, True).tolist()
    drawn = stage.batch(indices, torch.Generator().manual_seed(0)).ids
    unprompted = (drawn == stage.unprompted_ids).all(1).float().mean().item()
    assert unprompted == pytest.approx(TINY.backbone.prompt_dropout, abs=0.03)
    ids = stage.batch([0] * 2000, torch.Generator().manual_seed(0)).ids
    empty = (ids == stage.unprompted_ids).all(1)
    alone = [(ids == stage.finding_ids[finding]).all(1) for finding in stage.findings[0]]
    full = (ids == stage.input_ids[0]).all(1)
    assert torch.stack([empty, *alone, full]).any(0).all()
    prompt = PreparedDataset([phantom_data], "train").prompts[0]
    assert stage.tokenizer.decode(stage.input_ids[0], skip_special_tokens=True).startswith(prompt.split(",")[0].lower())


def test_run_keeps_the_token_numbers_that_it_began_with(
    phantom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make(phantom_data, tmp_path)
    words = ["A new finding", *(finding.value for finding in Finding), "PA view", "AP view", "male", "female"]
    monkeypatch.setattr("xreal.models.text_encoder.prompt_words", lambda: words)
    after = make(phantom_data, tmp_path)
    assert torch.equal(before.input_ids, after.input_ids)
    fresh = make(phantom_data, tmp_path / "fresh")
    assert not torch.equal(before.input_ids, fresh.input_ids)


def test_validation_loss_is_the_same_every_time(phantom_data: Path, tmp_path: Path) -> None:
    stage = make(phantom_data, tmp_path)
    stage.network.eval()
    with torch.no_grad():
        assert stage.validate() == stage.validate()


def test_training_can_start_from_another_models_weights(
    phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    fresh = make(phantom_data, tmp_path / "fresh").network.unet.state_dict()
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    renumbered = (model / "tokenizer/tokenizer.json").read_text()
    pneumonia, edema = (re.search(rf'"{word}": ?\d+', renumbered)[0] for word in ("pneumonia", "edema"))
    numbers = [text.split(":")[1] for text in (pneumonia, edema)]
    renumbered = renumbered.replace(pneumonia, f'"pneumonia":{numbers[1]}').replace(edema, f'"edema":{numbers[0]}')
    (model / "tokenizer/tokenizer.json").write_text(renumbered)
    stage = BackboneStage(TINY, [phantom_data], build_autoencoder(TINY.autoencoder, 64), tmp_path / "run", start=model)
    stored = load_file(tiny_model_folder / "unet/diffusion_pytorch_model.safetensors")
    started = stage.network.unet.state_dict()
    assert stored.keys() == started.keys()
    assert all(torch.equal(started[key], stored[key]) for key in stored)
    assert any(not torch.equal(fresh[key], stored[key]) for key in stored)
    assert stage.tokenizer.convert_tokens_to_ids("pneumonia") == int(numbers[1])  # the model's numbers, not new ones


def test_clearer_timesteps_are_trained_more(
    phantom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make(phantom_data, tmp_path)
    seen: list[torch.Tensor] = []
    add_noise = stage.scheduler.add_noise

    def watch(latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append(timesteps)
        return add_noise(latents, noise, timesteps)

    monkeypatch.setattr(stage.scheduler, "add_noise", watch)
    generator = torch.Generator().manual_seed(0)
    next(stage.losses(stage.batch([0] * 64, generator), 0, generator))
    timesteps = seen[0].float()
    assert 0 <= timesteps.min() < 10
    assert 980 < timesteps.max() < 1000
    assert timesteps.mean().item() == pytest.approx(1000 / 2.2, rel=0.03)  # of 1000 u^1.2


def test_a_small_lesion_weighs_as_much_as_a_large_one() -> None:
    lesions = torch.zeros(5, 32, 32)
    lesions[0, 4:12, 4:12] = 1  # 6% of the image
    lesions[1, 4:8, 4:8] = 1  # 1.6%
    lesions[2, 4:7, 4:6] = 0.5  # 0.3%
    lesions[3, 4, 4] = 0.1
    weighed = as_large(lesions)
    assert torch.equal(weighed[0], lesions[0])
    assert weighed[1].mean().item() == pytest.approx(0.04)
    assert torch.allclose(weighed[2], 10 * lesions[2])  # no more than ten times
    assert torch.allclose(weighed[3], 10 * lesions[3])
    assert not weighed[4].any()
