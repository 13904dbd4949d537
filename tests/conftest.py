"""Real components of the smallest preset, an untrained model made of them, and a data set of phantoms."""

import atexit
import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import xreal.cli
from xreal.config import PRESETS
from xreal.data.phantom import Phantom, phantom
from xreal.data.prepare import prepare
from xreal.images import write_image
from xreal.masks.lesions import Lesion
from xreal.masks.segmenter import build_segmenter
from xreal.models.autoencoder import build_autoencoder
from xreal.models.backbone import build_scheduler, build_unet
from xreal.models.folder import write_index
from xreal.models.text_encoder import build_text_encoder, build_tokenizer
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding, Organ

# "auto" is eager float32, so that tests do not depend on what is installed; tests/models/test_backends.py asks by name.
os.environ["XREAL_BACKEND"] = "torch"
os.environ["XREAL_CACHE"] = tempfile.mkdtemp(prefix="xreal-cache-")
atexit.register(shutil.rmtree, os.environ["XREAL_CACHE"], ignore_errors=True)

SIZE = PRESETS["tiny"].image_size
FINDINGS = ((), (Finding.PNEUMONIA,), (Finding.PLEURAL_EFFUSION, Finding.CARDIOMEGALY))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantoms() -> list[Phantom]:
    return [phantom(seed, SIZE, FINDINGS[seed % len(FINDINGS)]) for seed in range(12)]


@pytest.fixture(scope="session")
def organ_mask() -> np.ndarray:
    """Organs of a chest that no other fixture uses, (64, 64) uint8."""
    return phantom(100, SIZE).organ_mask


@pytest.fixture(scope="session")
def lesion_in(organ_mask: np.ndarray) -> Callable[..., Lesion]:
    """Return a function lung, finding, strength -> a lesion of 2×2 whole latents (16×16 pixels) in that lung."""

    def make(
        lung: Organ = Organ.RIGHT_LUNG,
        finding: Finding = Finding.PNEUMONIA,
        strength: float = 1.0,
        row: int | None = None,
    ) -> Lesion:
        rows, columns = np.nonzero(organ_mask == lung)
        y = 8 * int(rows.mean() // 8) if row is None else row
        x = 8 * round(columns.mean() / 8) - 8
        mask = np.zeros(organ_mask.shape, np.float32)
        mask[y : y + 16, x : x + 16] = 1
        return Lesion(finding, mask, strength)

    return make


@pytest.fixture(scope="session")
def tiny_pipeline(phantoms: list[Phantom]) -> XRealPipeline:
    """Untrained networks; the autoencoders start as principal components of phantoms, so pictures are not blank."""
    preset = PRESETS["tiny"]
    torch.manual_seed(0)
    images = torch.from_numpy(np.stack([chest.image for chest in phantoms]))[:, None]
    vae, controller = (build_autoencoder(preset.autoencoder, SIZE) for _ in range(2))
    for network in (vae, controller):
        network.initialise(images)
    components = {
        "vae": vae,
        "anatomy_controller": controller,
        "unet": build_unet(preset),
        "text_encoder": build_text_encoder(preset.text_encoder),
        "segmenter": build_segmenter(preset.segmenter, SIZE),
    }
    pipeline = XRealPipeline(
        tokenizer=build_tokenizer(preset.text_encoder),
        scheduler=build_scheduler(preset.backbone),
        **{name: network.eval().requires_grad_(False) for name, network in components.items()},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_pipeline: XRealPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold the same model on disk, written as the training stages write it. Copy it before changing anything."""
    folder = tmp_path_factory.mktemp("model")
    for name, component in tiny_pipeline.components.items():
        if component is not None:  # what the tiny model does not have
            component.save_pretrained(folder / name)
    assert write_index(folder)
    return folder


@pytest.fixture(scope="session")
def phantom_folder(phantoms: list[Phantom], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold 9 training and 3 validation phantoms as the source "folder" reads them."""
    raw = tmp_path_factory.mktemp("raw")
    rows = [("image", "patient_id", "split", "labels", "view", "sex", "age")]
    for i, chest in enumerate(phantoms):
        write_image(raw / f"chest-{i:02d}.png", chest.image)
        labels = "|".join(finding.value for finding in FINDINGS[i % len(FINDINGS)])
        rows.append((f"chest-{i:02d}.png", f"p{i}", "val" if i % 4 == 3 else "train", labels, "PA", "FM"[i % 2], "50"))
    with (raw / "metadata.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return raw


@pytest.fixture(scope="session")
def phantom_masks(phantoms: list[Phantom]) -> Callable[[np.ndarray], np.ndarray | None]:
    """Stand in for a segmenter: knows each phantom's own organ mask by its pixels."""
    known = {np.rint(chest.image * 255).astype(np.uint8).tobytes(): chest.organ_mask for chest in phantoms}
    return lambda image: known[np.rint(image * 255).astype(np.uint8).tobytes()]


@pytest.fixture(scope="session")
def phantom_data(
    phantom_folder: Path,
    phantom_masks: Callable[[np.ndarray], np.ndarray | None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Hold the phantoms as a prepared data set with organ masks. Copy it before changing anything."""
    out = tmp_path_factory.mktemp("prepared")
    prepare("folder", phantom_folder, out, SIZE, phantom_masks)
    return out


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs the command line in this process and returns its exit status."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["xreal", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            xreal.cli.main()
        return int(ended.value.code or 0)

    return call
