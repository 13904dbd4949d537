"""The judges: networks trained on real images alone that say what an image shows, and the feature spaces of distances.

Two come with the package and judge every image: the encoder (view position, sex, age, findings; its features) and a
second segmenter. The autoencoder of the generator is a second feature space that needs no training of its own. Others
are used where their files are on this disk; nothing is ever fetched. Each has an environment variable with a path:

| extractor | variable | what it points to |
|---|---|---|
| "rad-dino" | ``XREAL_RAD_DINO`` | a folder with config.json and model.safetensors, as transformers writes it |
| "inception" | ``XREAL_INCEPTION`` | the same, of any image network that transformers' ``AutoModel`` opens |
| "torchxrayvision" | ``XREAL_TORCHXRAYVISION`` | the .pt file of a DenseNet of the package torchxrayvision, installed |

A .pt file is a pickle, which can run anything when it is opened: point only to one that you trust.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xreal.errors import InputError, ModelError
from xreal.masks.segmenter import JudgeSegmenter
from xreal.models.autoencoder import encode_image
from xreal.models.encoder import Encoder, Reading

__all__ = [
    "JUDGES",
    "AutoencoderFeatures",
    "EncoderFeatures",
    "Extractor",
    "Judges",
    "extractors",
    "load_judges",
    "read_images",
]

JUDGES = Path(__file__).resolve().parents[1] / "weights" / "judges"
"""Folder of the judges that come with the package."""

_BATCH = 16
_VARIABLES = {
    "rad-dino": "XREAL_RAD_DINO",
    "inception": "XREAL_INCEPTION",
    "torchxrayvision": "XREAL_TORCHXRAYVISION",
}


class Extractor(Protocol):
    """A feature space.

    Attributes:
        name: as the report calls it.
        weights: SHA-256 of its weights, 16 hexadecimal digits.
    """

    name: str
    weights: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (N, d) float64 of images (N, H, W) float32 in [0, 1]."""
        ...


@dataclass(frozen=True)
class Judges:
    """What judges images; trained on real ones alone.

    Attributes:
        encoder: X-ray -> features, view position, sex, age, findings.
        segmenter: X-ray -> organ mask; not the one that a model draws from.
        hashes: SHA-256 of the weights of "encoder" and "judge_segmenter", 16 hexadecimal digits each.
    """

    encoder: Encoder
    segmenter: JudgeSegmenter
    hashes: dict[str, str]


def _hash(path: Path) -> str:
    """Return the SHA-256 of a weights file or of the .safetensors files of a folder, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def load_judges(folder: str | Path = JUDGES) -> Judges:
    """Open the judges of a folder, by default those that come with the package.

    Raises:
        ModelError: one is missing or does not fit; the message says how they are made.
    """
    folder = Path(folder)
    networks: dict[str, Any] = {}
    for stage, cls in (("encoder", Encoder), ("judge-segmenter", JudgeSegmenter)):
        place = folder / stage.replace("-", "_")
        if not any(place.glob("*.safetensors")):
            raise ModelError(
                f"{folder} holds no judge {place.name}/; train it on real images: "
                f"xreal train {stage} --data PREPARED --out {folder}"
            )
        try:
            network, report = cls.from_pretrained(place, output_loading_info=True, local_files_only=True)
        except Exception as error:  # diffusers has many errors for broken files
            raise ModelError(f"{place} cannot be opened: {error}") from error
        wrong = [f"{kind}: {', '.join(map(str, keys))}" for kind, keys in report.items() if keys]
        if wrong:
            raise ModelError(f"{place} does not fit {cls.__name__}; {'; '.join(wrong)}")
        networks[place.name] = network.float().eval().requires_grad_(False)
    hashes = {name: _hash(folder / name) for name in networks}
    return Judges(encoder=networks["encoder"], segmenter=networks["judge_segmenter"], hashes=hashes)


@torch.inference_mode()
def _batched(function: Callable[[Tensor], Tensor], images: np.ndarray, device: torch.device) -> np.ndarray:
    """Apply a function (B, 1, H, W) -> (B, d) to images (N, H, W)."""
    batches = torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None].split(_BATCH)
    return torch.cat([function(batch.to(device)).double().cpu() for batch in batches]).numpy()


@torch.inference_mode()
def read_images(encoder: Encoder, images: np.ndarray) -> Reading:
    """Return what the encoder reads from images (N, H, W) float32 in [0, 1], on the CPU."""
    batches = torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None].split(_BATCH)
    readings = [encoder(batch.to(encoder.device)) for batch in batches]
    return Reading(*(torch.cat(column).float().cpu() for column in zip(*readings, strict=True)))


class EncoderFeatures:
    """The encoder's features before its heads, (N, d).

    They do not see brightness and contrast, which the encoder takes out of every image.
    """

    name = "cxr-encoder"

    def __init__(self, encoder: Encoder, weights: str) -> None:
        self.encoder, self.weights = encoder, weights

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (N, d)."""
        return read_images(self.encoder, images).features.double().numpy()


class AutoencoderFeatures:
    """Mean and deviation of the latents in each cell of a grid over the image, (N, 2 · channels · cells²).

    The generator draws in these latents, so they favour it: they stand beside another feature space, never alone.
    """

    name = "autoencoder"
    cells = 4

    def __init__(self, autoencoder: Any, weights: str) -> None:
        self.autoencoder, self.weights = autoencoder, weights

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (N, 2 · channels · cells²)."""

        def pool(batch: Tensor) -> Tensor:
            latents = encode_image(self.autoencoder, batch)
            mean = F.adaptive_avg_pool2d(latents, self.cells)
            variance = F.adaptive_avg_pool2d(latents.square(), self.cells) - mean.square()
            return torch.cat([mean, variance.clamp_min(0).sqrt()], 1).flatten(1)

        return _batched(pool, images, self.autoencoder.device)


class _TransformersFeatures:
    """Pooled output of a network of transformers, opened from a folder on this disk."""

    def __init__(self, name: str, folder: Path) -> None:
        from transformers import AutoModel

        self.name, self.weights = name, _hash(folder)
        try:
            network = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except Exception as error:  # transformers has many errors for broken folders
            raise ModelError(f"{name}: {folder} cannot be opened: {error}") from error
        self.network = network.float().eval().requires_grad_(False)
        path = folder / "preprocessor_config.json"
        self.settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (N, d) of images brought to the network's size and its own mean and deviation."""
        size: dict[str, int] = self.settings.get("crop_size") or self.settings.get("size") or {}
        default = getattr(self.network.config, "image_size", 224)
        side: int = size.get("height") or size.get("shortest_edge") or default
        mean, deviation = (
            torch.tensor(self.settings.get(key, [0.5] * 3)).view(1, 3, 1, 1) for key in ("image_mean", "image_std")
        )

        def pool(batch: Tensor) -> Tensor:
            pixels = F.interpolate(batch, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
            output = self.network(pixel_values=(pixels.clamp(0, 1).expand(-1, 3, -1, -1) - mean) / deviation)
            pooled = getattr(output, "pooler_output", None)
            return (output.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1)

        return _batched(pool, images, torch.device("cpu"))


class _TorchXRayVisionFeatures:
    """Pooled features of a DenseNet-121 of torchxrayvision, opened from a file on this disk."""

    name = "torchxrayvision"

    def __init__(self, path: Path) -> None:
        with warnings.catch_warnings():  # the package changes the filters of the whole process
            network = importlib.import_module("torchxrayvision").models.DenseNet(num_classes=18)
        try:
            saved = torch.load(path, map_location="cpu", weights_only=False)
            state = saved.state_dict() if isinstance(saved, torch.nn.Module) else saved
            prefix = "features."
            network.features.load_state_dict(
                {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            )
        except Exception as error:  # pickles break in many ways
            raise ModelError(f"{self.name}: {path} cannot be opened: {error}") from error
        self.layers, self.weights = network.features.eval().requires_grad_(False), _hash(path)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (N, 1024) of images at 224 × 224 in the package's range, −1024 to 1024."""

        def pool(batch: Tensor) -> Tensor:
            pixels = F.interpolate(batch, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
            hidden: Tensor = self.layers((2 * pixels - 1) * 1024)
            return hidden.relu().mean((2, 3))

        return _batched(pool, images, torch.device("cpu"))


def extractors(
    judges: Judges,
    autoencoder: Any = None,
    autoencoder_weights: str = "",
    paths: Mapping[str, str | Path] | None = None,
) -> dict[str, Extractor]:
    """List the feature spaces that can be used here, by name.

    Args:
        judges: their encoder is always there.
        autoencoder: the generator's ``vae``; without it there is no "autoencoder".
        autoencoder_weights: hash of its weights.
        paths: of "rad-dino", "inception" and "torchxrayvision"; default: their environment variables. Those without
            one are left out.

    Raises:
        InputError: a path for an unknown extractor.
        ModelError: a path that is given but cannot be used.
    """
    given = {name: os.environ[key] for name, key in _VARIABLES.items() if os.environ.get(key)} | dict(paths or {})
    found: dict[str, Extractor] = {"cxr-encoder": EncoderFeatures(judges.encoder, judges.hashes["encoder"])}
    if autoencoder is not None:
        found["autoencoder"] = AutoencoderFeatures(autoencoder, autoencoder_weights)
    for name, path in given.items():
        if name not in _VARIABLES:
            raise InputError(f"a path was given for extractor {name!r}; expected one of {', '.join(_VARIABLES)}")
        place = Path(path)
        if not place.exists():
            raise ModelError(
                f"{name}: {place} does not exist; give a path with its weights, or unset {_VARIABLES[name]}"
            )
        if name != "torchxrayvision":
            found[name] = _TransformersFeatures(name, place)
        elif importlib.util.find_spec(name) is None:
            raise ModelError(f"{name}: weights are given ({place}) but the package {name} is not installed")
        else:
            found[name] = _TorchXRayVisionFeatures(place)
    return found
