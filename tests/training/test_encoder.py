"""The encoder learns what an image shows and not how it was exposed; what is unknown teaches nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xreal.config import PRESETS, EncoderConfig, Preset
from xreal.data.contract import Sample
from xreal.data.prepared import write_shard
from xreal.errors import DataError, ModelError
from xreal.evaluation.judges import load_judges
from xreal.models.encoder import Encoder
from xreal.training.encoder import EncoderStage, Labels, masked_mean
from xreal.training.loop import train
from xreal.training.stages import build_stage
from xreal.vocabulary import Finding

ILL, HEALTHY = (Finding.PNEUMONIA,), (Finding.NO_FINDING,)


def sample(number: int, ill: bool, exposure: float) -> Sample:
    """Draw a picture with a blob in it at the left if it is ill, at the right if not, to the power of ``exposure``."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:32, :32]
    cx, cy = (8 if ill else 24) + rng.uniform(-2, 2), 16 + rng.uniform(-4, 4)
    picture = 0.05 + 0.7 * y / 31 + 0.2 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 30) + rng.normal(0, 0.03, (32, 32))
    known = number % 2 == 0
    return Sample(
        image=(255 * np.clip(picture, 0.01, 1) ** exposure).astype(np.uint8),
        image_id=f"{number}",
        findings=ILL if ill else HEALTHY,
        view_position="AP" if known else "",
        sex="FM"[int(ill)] if known else "",
        age=40 if known else None,
    )


def preset(steps: int = 60) -> Preset:
    encoder = EncoderConfig(input_size=32, channels=(8, 8, 8, 16), norm_num_groups=4, fewest=4)
    stage = {"steps": steps, "batch_size": 16, "learning_rate": 1e-2, "validate_every": 1000, "checkpoint_every": 1000}
    return replace(PRESETS["tiny"], encoder=encoder).with_stage("encoder", **stage)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold 48 training pictures whose exposure goes with the label, and 24 to validate on where it goes against it."""
    out = tmp_path_factory.mktemp("exposed")
    write_shard(out / "train-00000.parquet", [sample(i, i % 4 < 2, (0.7, 1.4)[i % 4 < 2]) for i in range(48)])
    write_shard(out / "val-00000.parquet", [sample(i, i % 4 < 2, (1.4, 0.7)[i % 4 < 2]) for i in range(100, 124)])
    return out


def test_findings_are_learnt_and_exposure_is_not(data: Path, tmp_path: Path) -> None:
    stage = build_stage("encoder", preset(), [data], tmp_path)
    with torch.no_grad():
        before = stage.validate()
    after = train(stage, tmp_path, mixed_precision="no")
    assert after["auroc Pneumonia"] > 0.95
    assert after["auroc findings"] > before["auroc findings"]
    assert after["n Pneumonia"] == after["n No Finding"] == 12
    assert after["exposure shift"] < 0.1  # without random gamma: 0.3
    assert after["auroc sex"] > 0.9  # goes with the finding where it is known
    assert after["n sex"] == 6
    assert "auroc view" not in after  # all are AP
    assert after["age error"] < before["age error"]
    assert (tmp_path / "training/encoder/step-0000060.png").stat().st_size > 1000


def test_a_new_encoder_keeps_no_running_statistics_and_old_folders_open(data: Path, tmp_path: Path) -> None:
    network = EncoderStage(preset(), [data]).network
    assert isinstance(network, Encoder)
    assert list(network.buffers()) == []
    network.save_pretrained(tmp_path / "new")
    again = Encoder.from_pretrained(tmp_path / "new")
    for key, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    old = Encoder(("Pneumonia",), 32, (8, 8, 8, 16), 4)  # as before the norm of the blocks had a name
    old.save_pretrained(tmp_path / "old")
    config = tmp_path / "old/config.json"
    named = json.loads(config.read_text())
    assert named.pop("block_norm") == "batch"
    config.write_text(json.dumps(named))
    again = Encoder.from_pretrained(tmp_path / "old")
    assert again.state_dict().keys() == old.state_dict().keys()
    with pytest.raises(ModelError, match='block_norm is \'layer\'; expected "group" or "batch"'):
        Encoder(block_norm="layer")


def test_what_is_learnt_depends_on_how_many_there_are(data: Path) -> None:
    stage = EncoderStage(preset(), [data])
    assert stage.findings == (Finding.NO_FINDING, Finding.PNEUMONIA)
    many = replace(preset(), encoder=replace(preset().encoder, fewest=25))
    with pytest.raises(DataError, match="no finding has 25 training images or more in"):
        EncoderStage(many, [data])


def test_unknown_labels_teach_nothing(data: Path) -> None:
    stage = EncoderStage(preset(), [data])
    image, labels = stage.batch(range(8), torch.Generator().manual_seed(0))
    assert torch.isnan(labels.sex).tolist() == [False, True] * 4
    (loss,) = stage.losses((image, Labels(*(torch.full_like(values, torch.nan) for values in labels))), 0, None)
    assert loss.value.item() == 0
    (loss,) = stage.losses((image, labels._replace(findings=torch.full_like(labels.findings, torch.nan))), 0, None)
    assert loss.parts["findings"] == 0
    assert loss.parts["sex"] > 0
    loss.value.backward()
    assert stage.network.findings_head.weight.grad.abs().max() == 0
    assert torch.isfinite(stage.network.sex.weight.grad).all()


def test_mean_over_what_is_known() -> None:
    losses = torch.tensor([1.0, 3.0, torch.inf])
    assert masked_mean(losses, torch.tensor([True, True, False])) == 2
    assert masked_mean(losses, torch.tensor([False] * 3)) == 0


def test_rare_findings_weigh_as_much_as_common_ones(tmp_path: Path) -> None:
    samples = [sample(i, i < 4, 1.0) for i in range(40)]
    for split in ("train", "val"):
        write_shard(tmp_path / f"{split}-00000.parquet", samples)
    stage = EncoderStage(preset(), [tmp_path])
    weights, positive = stage.sampling_weights, stage.labels.findings
    drawn = (weights[:, None] * positive).sum(0) / weights.sum()
    torch.testing.assert_close(stage.positive_weight * drawn, 1 - drawn)
    healthy, ill = stage.positive_weight.tolist()
    assert ill > 1 > healthy


def test_exported_judges_are_opened(data: Path, phantom_data: Path, tmp_path: Path) -> None:
    for name, folder in (("encoder", data), ("judge-segmenter", phantom_data)):
        chosen = preset(steps=1) if name == "encoder" else PRESETS["tiny"].with_stage(name, steps=1)
        train(build_stage(name, chosen, [folder], tmp_path), tmp_path, mixed_precision="no")
    judges = load_judges(tmp_path)
    assert judges.encoder.findings == (Finding.NO_FINDING, Finding.PNEUMONIA)
    assert judges.segmenter.config.input_size == 32
