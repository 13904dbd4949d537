"""A model folder: a diffusers pipeline folder whose components are opened strictly."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from xreal.errors import ModelError
from xreal.images import write_json
from xreal.models.adopt import OTHER_NAMES, REQUIRED
from xreal.models.narrow import light_class

__all__ = [
    "BUNDLED",
    "REQUIRED",
    "load_autoencoder",
    "load_component",
    "load_components",
    "read_class",
    "read_index",
    "resolve_folder",
    "save_component",
    "weights_hash",
    "write_index",
]

_WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
BUNDLED = ("cxr-256",)

# Class name in model_index.json -> module that defines it. Nothing else is imported, whatever a folder says.
_CLASSES = {
    "AutoencoderKL": "diffusers",
    "PatchAutoencoderKL": "xreal.models.autoencoder",
    "UNet2DConditionModel": "diffusers",
    "PatchUNet2DConditionModel": "xreal.models.backbone",
    "LDMBertModel": "diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion",
    "CLIPTextModel": "transformers",
    "BertModel": "transformers",
    "PreTrainedTokenizerFast": "transformers",
    "TokenizersBackend": "transformers",
    "BertTokenizer": "transformers",
    "BertTokenizerFast": "transformers",
    "CLIPTokenizer": "transformers",
    "CLIPTokenizerFast": "transformers",
    "DDIMScheduler": "diffusers",
    "PNDMScheduler": "diffusers",
    "DDPMScheduler": "diffusers",
    "DEISMultistepScheduler": "diffusers",
    "DPMSolverMultistepScheduler": "diffusers",
    "DPMSolverSinglestepScheduler": "diffusers",
    "EulerAncestralDiscreteScheduler": "diffusers",
    "EulerDiscreteScheduler": "diffusers",
    "HeunDiscreteScheduler": "diffusers",
    "LMSDiscreteScheduler": "diffusers",
    "UniPCMultistepScheduler": "diffusers",
    "AnatomyVariation": "xreal.models.variation",
    "SignalLeak": "xreal.models.signal_leak",
    "DetailGenerator": "xreal.models.detail",
    "Texture": "xreal.models.texture",
    "ControlNetModel": "diffusers",
    "T2IAdapter": "diffusers",
    "Segmenter": "xreal.masks.segmenter",
}

# Component -> file and key in which its class is written.
_SELF_DESCRIPTIONS = {
    "vae": ("config.json", "_class_name"),
    "vqvae": ("config.json", "_class_name"),
    "text_encoder": ("config.json", "architectures"),
    "tokenizer": ("tokenizer_config.json", "tokenizer_class"),
    "unet": ("config.json", "_class_name"),
    "scheduler": ("scheduler_config.json", "_class_name"),
    "anatomy_controller": ("config.json", "_class_name"),
    "anatomy_adapter": ("config.json", "_class_name"),
    "anatomy_variation": ("config.json", "_class_name"),
    "signal_leak": ("config.json", "_class_name"),
    "detail": ("config.json", "_class_name"),
    "texture": ("config.json", "_class_name"),
    "controlnet": ("config.json", "_class_name"),
    "segmenter": ("config.json", "_class_name"),
}


def resolve_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a bundled model by its name, or a folder given by its path.

    Raises:
        ModelError: neither.
    """
    if str(name_or_path) in BUNDLED:
        return _WEIGHTS / str(name_or_path)
    folder = Path(name_or_path)
    if not folder.is_dir():
        raise ModelError(f"{name_or_path} is neither a folder nor a bundled model ({', '.join(BUNDLED)})")
    return folder


def read_index(folder: Path) -> dict[str, str]:
    """Read which class each component of the folder has.

    Raises:
        ModelError: ``model_index.json`` is missing or unreadable.
    """
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is no model folder: {path.name} cannot be read ({error})") from error
    return {key: value[1] for key, value in index.items() if isinstance(value, list) and value[1] is not None}


def read_class(folder: Path, name: str) -> str:
    """Read from a component's own configuration which class it has.

    Raises:
        ModelError: the configuration is missing or says nothing.
    """
    file, key = _SELF_DESCRIPTIONS[name]
    try:
        value = json.loads((folder / name / file).read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder / name / file} does not say which class {name} has ({error!r})") from error
    return str(value[0] if isinstance(value, list) else value)


def write_index(folder: Path) -> bool:
    """Write ``model_index.json`` once every needed component is there, from what the components say of themselves.

    The index of another kind of pipeline stays as it is: a Stable Diffusion folder to which an anatomy controller is
    added remains one.

    Returns:
        Whether the folder is complete.

    Raises:
        ModelError: a component says nothing of itself, or has an unknown class.
    """
    path = folder / "model_index.json"
    if path.exists() and _pipeline_class(folder) != "XRealPipeline":
        return True
    index: dict[str, Any] = {"_class_name": "XRealPipeline"}
    for name in _SELF_DESCRIPTIONS:
        if (folder / name).is_dir():
            class_name = read_class(folder, name)
            index[name] = [_module(folder, name, class_name).split(".")[0], class_name]
    complete = index.keys() >= REQUIRED
    if complete:
        write_json(path, index)  # whole or not at all: other processes may be reading
    return complete


def load_components(folder: Path, optional: Iterable[str]) -> dict[str, Any]:
    """Open the components of a model folder, or of another latent text-to-image pipeline's folder.

    Args:
        folder: with ``model_index.json``.
        optional: components that are opened where the index names them or, beside another pipeline's index, which
            does not know them, where there is a folder for them.

    Raises:
        ModelError: a component is missing, truncated or of another shape.
    """
    index = read_index(folder)
    places = {name: name if name in index else OTHER_NAMES.get(name, name) for name in sorted(REQUIRED)}
    if missing := [name for name, place in places.items() if place not in index]:
        raise ModelError(f"{folder}/model_index.json names no {', '.join(missing)}")
    foreign = _pipeline_class(folder) != "XRealPipeline"
    for name in optional:
        if name in index or (foreign and (folder / name).is_dir()):
            places[name] = name
    return {
        name: load_component(folder, place, index[place] if place in index else read_class(folder, place))
        for name, place in sorted(places.items())
    }


def load_autoencoder(folder: Path) -> Any:
    """Open the autoencoder of a model folder or of another latent pipeline's folder; None where there is none.

    Raises:
        ModelError: it cannot be opened.
    """
    names = [name for name in ("vae", OTHER_NAMES["vae"]) if (folder / name).is_dir()]
    return load_component(folder, names[0], read_class(folder, names[0])) if names else None


def _pipeline_class(folder: Path) -> str:
    """Return which pipeline wrote ``model_index.json``; an index that does not say so is taken for ours."""
    return str(
        json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name", "XRealPipeline")
    )


def _module(folder: Path, name: str, class_name: str) -> str:
    if class_name not in _CLASSES:
        raise ModelError(f"{folder}: component {name} has class {class_name}; expected one of {', '.join(_CLASSES)}")
    return _CLASSES[class_name]


def load_component(folder: Path, name: str, class_name: str) -> Any:
    """Open one component.

    Raises:
        ModelError: unknown class, missing or truncated files, weights of another shape or missing weights.
    """
    module = _module(folder, name, class_name)
    place = folder / name
    if not place.is_dir():
        raise ModelError(f"{folder} is incomplete: folder {name} is missing")
    if light := light_class(class_name):
        try:
            component = light(place)
        except Exception as error:  # as below
            raise ModelError(f"{place} cannot be opened: {error}") from error
        return component.eval() if isinstance(component, torch.nn.Module) else component
    cls = getattr(importlib.import_module(module), class_name)
    is_network = issubclass(cls, torch.nn.Module)
    if is_network and not any(place.glob("*.safetensors")):
        raise ModelError(f"{folder} is incomplete: {name} holds no .safetensors weights")
    try:
        if not is_network:
            return cls.from_pretrained(place)
        loaded, report = cls.from_pretrained(place, output_loading_info=True, local_files_only=True)
    except Exception as error:  # each library has its own errors for broken files
        raise ModelError(f"{place} cannot be opened: {error}") from error
    wrong = [f"{kind}: {', '.join(map(str, keys))}" for kind, keys in report.items() if keys]
    if wrong:
        raise ModelError(f"{place} does not fit {class_name}; {'; '.join(wrong)}")
    return loaded.float().eval()


def save_component(component: Any, folder: Path) -> None:
    """Write a component into its folder; where it was opened is nobody's business and left out."""
    if hasattr(component, "register_to_config"):
        component.register_to_config(_name_or_path="")
    component.save_pretrained(folder)


def start_from(network: torch.nn.Module, folder: Path, widened: Iterable[str] = ()) -> None:
    """Copy the weights of a component's folder into a new network, to train on from them.

    Nothing happens where the folder is missing; layers that it does not have keep their fresh weights.

    Args:
        network: the new one.
        folder: of the component.
        widened: weights that may have more inputs in the new network, after those of the old one; they begin at zero,
            so that the network computes what the old one does.

    Raises:
        ModelError: weights of another shape, or a network that shares nothing.
    """
    stored: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stored |= load_file(path)
    if not stored:
        return
    own = network.state_dict()
    for key in widened:
        if (more := own[key].shape[1] - stored[key].shape[1]) > 0:
            zeros = stored[key].new_zeros(stored[key].shape[0], more, *stored[key].shape[2:])
            stored[key] = torch.cat([stored[key], zeros], dim=1)
    wrong = [key for key, value in stored.items() if key in own and own[key].shape != value.shape]
    if wrong or not stored.keys() & own.keys():
        raise ModelError(f"{folder} has another shape than the preset asks for: {', '.join(wrong) or 'no layer fits'}")
    network.load_state_dict({key: value.float() for key, value in stored.items() if key in own}, strict=False)


def weights_hash(folder: Path, without: Collection[str] = ()) -> str:
    """Return the SHA-256 of all weights of a model folder, 16 hexadecimal digits.

    Args:
        folder: of the model.
        without: components that are left out.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.glob("*/*.safetensors") if path.parent.name not in without):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
