"""What several tests of the card need: a data set that is large enough for distances, judges, textures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss

from xreal.config import PRESETS, JudgeSegmenterConfig
from xreal.data.contract import Sample
from xreal.data.phantom import phantom
from xreal.data.prepared import PreparedDataset, write_shard
from xreal.masks.segmenter import build_judge_segmenter
from xreal.models.encoder import build_encoder
from xreal.vocabulary import Finding

TINY = PRESETS["tiny"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold 200 validation phantoms, which is what distances need, and 12 training phantoms."""
    folder = tmp_path_factory.mktemp("data")
    samples = []
    for seed in range(212):
        findings = ((Finding.NO_FINDING,), (Finding.PNEUMONIA,))[seed % 2]
        chest = phantom(1000 + seed, TINY.image_size, () if seed % 2 == 0 else findings)
        image = np.rint(chest.image * 255).astype(np.uint8)
        samples.append(Sample(image, chest.organ_mask, f"p{seed}", findings=findings))
    write_shard(folder / "val-00000.parquet", samples[:200])
    write_shard(folder / "train-00000.parquet", samples[200:])
    return folder


@pytest.fixture(scope="session")
def judges(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold an encoder of random features and a segmenter that has learnt phantoms."""
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    build_encoder(TINY.encoder, (Finding.NO_FINDING, Finding.PNEUMONIA)).save_pretrained(folder / "encoder")
    segmenter = build_judge_segmenter(
        JudgeSegmenterConfig(input_size=32, filters=8, norm_num_groups=2, blocks_down=(1, 1))
    )
    samples = list(PreparedDataset((data,), "val"))[:64]
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))[:, None] / 255
    masks = torch.from_numpy(np.stack([sample.organ_mask for sample in samples]))[:, None].long() % 4  # no aorta
    optimizer, loss = torch.optim.AdamW(segmenter.parameters(), lr=2e-2), DiceCELoss(to_onehot_y=True, softmax=True)
    for step in range(90):
        some = slice(16 * (step % 4), 16 * (step % 4) + 16)
        optimizer.zero_grad()
        loss(segmenter(images[some]), masks[some]).backward()
        optimizer.step()
    segmenter.save_pretrained(folder / "judge_segmenter")
    return folder


@pytest.fixture(scope="session")
def textures() -> Callable[[int, int], np.ndarray]:
    """Return a function count, seed -> pictures (count, 64, 64) without anatomy, as steep in spectrum as X-rays."""

    def make(count: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64))
        slope = np.maximum(radius, 1 / 64) ** -rng.normal(1.5, 0.1, (count, 1, 1))
        fields = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(count, 64, 64))) * slope)
        fields /= fields.std(axis=(1, 2), keepdims=True)
        fields = rng.normal(0.5, 0.03, (count, 1, 1)) + rng.normal(0.15, 0.01, (count, 1, 1)) * fields
        return np.clip(fields + rng.normal(0, 0.01, fields.shape), 0, 1).astype(np.float32)

    return make
