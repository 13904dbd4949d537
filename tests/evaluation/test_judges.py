"""The judges: stored and opened whole, blind to what they should not see, and never fetched from anywhere."""

import importlib.machinery
import shutil
import socket
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xreal.config import PRESETS
from xreal.data.phantom import Phantom
from xreal.errors import InputError, ModelError
from xreal.evaluation.judges import Judges, extractors, load_judges, read_images
from xreal.masks.segmenter import build_judge_segmenter, segment
from xreal.models.encoder import build_encoder
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding

TINY = PRESETS["tiny"]
FINDINGS = (Finding.NO_FINDING, Finding.PNEUMONIA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold untrained judges as the training stages write them. Copy it before changing anything."""
    out = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    build_encoder(TINY.encoder, FINDINGS).save_pretrained(out / "encoder")
    build_judge_segmenter(TINY.judge_segmenter).save_pretrained(out / "judge_segmenter")
    return out


@pytest.fixture(scope="module")
def judges(folder: Path) -> Judges:
    return load_judges(folder)


@pytest.fixture(scope="module")
def images(phantoms: list[Phantom]) -> np.ndarray:
    return np.stack([chest.image for chest in phantoms])


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_judges_are_opened_whole(folder: Path, judges: Judges, images: np.ndarray, tmp_path: Path) -> None:
    assert judges.encoder.findings == FINDINGS
    assert not judges.encoder.training
    assert judges.hashes.keys() == {"encoder", "judge_segmenter"}
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    again = load_judges(copy)
    assert again.hashes == judges.hashes
    torch.testing.assert_close(read_images(again.encoder, images), read_images(judges.encoder, images))
    torch.manual_seed(1)
    build_encoder(TINY.encoder, FINDINGS).save_pretrained(copy / "encoder")
    other = load_judges(copy).hashes
    assert other["encoder"] != judges.hashes["encoder"]
    assert other["judge_segmenter"] == judges.hashes["judge_segmenter"]


def test_missing_and_broken_judges_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no judge encoder/; .* xreal train encoder --data PREPARED --out"):
        load_judges(tmp_path)
    shutil.copytree(folder / "encoder", tmp_path / "encoder")
    with pytest.raises(ModelError, match="xreal train judge-segmenter"):
        load_judges(tmp_path)
    shutil.copytree(folder / "judge_segmenter", tmp_path / "judge_segmenter")
    load_judges(tmp_path)
    (weights,) = (tmp_path / "encoder").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ModelError, match="encoder cannot be opened"):
        load_judges(tmp_path)


def test_judges_of_the_bundled_size_stay_small() -> None:
    preset = PRESETS["cxr-256"]
    encoder, segmenter = build_encoder(preset.encoder, tuple(Finding)), build_judge_segmenter(preset.judge_segmenter)
    assert sum(weight.numel() for weight in encoder.parameters()) < 3e6
    assert sum(weight.numel() for weight in segmenter.parameters()) < 2e6
    reading = encoder(torch.rand(2, 1, 200, 200))
    assert reading.features.shape == (2, 160)
    assert reading.maps.shape == (2, len(Finding), 8, 8)
    assert segmenter(torch.rand(2, 1, 200, 200)).shape == (2, 4, 200, 200)


def test_maps_explain_the_logits(judges: Judges, images: np.ndarray) -> None:
    reading = read_images(judges.encoder, images)
    bias = judges.encoder.findings_head.bias
    torch.testing.assert_close(reading.maps.mean((2, 3)) + bias, reading.findings)
    assert reading.findings.std(0).min() > 1e-3


def test_exposure_is_not_seen_but_anatomy_is(judges: Judges, images: np.ndarray) -> None:
    extractor = extractors(judges)["cxr-encoder"]
    plain = extractor(images)
    spread = plain.std(0).mean()
    assert np.abs(extractor(0.5 * images + 0.2) - plain).mean() < 0.2 * spread
    assert np.abs(extractor(images[:, :, ::-1]) - plain).mean() > 0.2 * spread
    np.testing.assert_allclose(extractor(images[3:4])[0], plain[3], atol=1e-5)  # others in the batch do not matter


def test_second_segmenter_is_used_like_the_first(judges: Judges, images: np.ndarray) -> None:
    found = segment(judges.segmenter, torch.from_numpy(images)[:, None])
    assert found.shape == images.shape
    assert found.dtype == np.uint8
    assert found.max() <= 3
    doubled = torch.from_numpy(images.repeat(2, axis=1).repeat(2, axis=2))[:, None]
    assert segment(judges.segmenter, doubled).shape == (12, 128, 128)


def test_autoencoder_features(judges: Judges, images: np.ndarray, tiny_pipeline: XRealPipeline) -> None:
    available = extractors(judges, tiny_pipeline.vae, "abc")
    plain = available["autoencoder"](images)
    channels = TINY.autoencoder.latent_channels
    assert plain.shape == (12, 2 * channels * 16)
    assert available["autoencoder"].weights == "abc"
    assert (plain[:, channels * 16 :] >= 0).all()
    darker = available["autoencoder"](0.8 * images)
    assert np.abs(darker - plain).mean() > 0.1 * plain.std(0).mean()


def test_unknown_extractors_are_refused(judges: Judges, images: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="extractor 'vgg'; expected one of rad-dino, inception, torchxrayvision"):
        extractors(judges, paths={"vgg": tmp_path})
    with pytest.raises(ModelError, match="gone does not exist; give a path with its weights, or unset XREAL_RAD_DINO"):
        extractors(judges, paths={"rad-dino": tmp_path / "gone"})


def test_network_of_transformers_plugs_in(
    judges: Judges, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path)
    monkeypatch.setenv("XREAL_RAD_DINO", str(tmp_path))
    available = extractors(judges)
    assert list(available) == ["cxr-encoder", "rad-dino"]
    plain = available["rad-dino"](images)
    assert plain.shape == (12, 16)
    assert len(available["rad-dino"].weights) == 16
    settings = (
        '{"crop_size": {"height": 28, "width": 28}, "image_mean": [0.53, 0.53, 0.53], "image_std": [0.3, 0.3, 0.3]}'
    )
    (tmp_path / "preprocessor_config.json").write_text(settings)
    assert np.abs(extractors(judges)["rad-dino"](images) - plain).max() > 1e-3
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"rad-dino: .* cannot be opened"):
        extractors(judges)


class FakeDenseNet(nn.Module):
    """Has the parts of the real one that are used."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, stride=16))
        self.classifier = nn.Linear(8, num_classes)


def test_torchxrayvision_plugs_in_where_it_is_installed(
    judges: Judges, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    network = FakeDenseNet(18)
    torch.save(network.state_dict(), tmp_path / "densenet.pt")
    paths = {"torchxrayvision": tmp_path / "densenet.pt"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="package torchxrayvision is not installed"):
        extractors(judges, paths=paths)
    module = types.ModuleType("torchxrayvision")
    module.models = types.SimpleNamespace(DenseNet=FakeDenseNet)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchxrayvision", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    extractor = extractors(judges, paths=paths)["torchxrayvision"]
    white = network.features(torch.full((1, 1, 224, 224), 1024.0)).relu().mean((2, 3)).detach().numpy()
    np.testing.assert_allclose(extractor(np.ones((1, 64, 64), np.float32)), white, rtol=1e-4)
    assert extractor(images).shape == (12, 8)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "densenet.pt")
    with pytest.raises(ModelError, match=r"torchxrayvision: .* cannot be opened"):
        extractors(judges, paths=paths)
