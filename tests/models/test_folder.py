"""Model folders: what is missing, broken or foreign is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from xreal.errors import ModelError
from xreal.models.folder import REQUIRED, read_index, resolve_folder, start_from, weights_hash, write_index
from xreal.pipeline import XRealPipeline


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def weights(folder: Path, name: str) -> Path:
    return next((folder / name).glob("*.safetensors"))


def change_weights(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(weights(folder, name))
    change(tensors)
    save_file(tensors, weights(folder, name), metadata={"format": "pt"})


def change_index(folder: Path, **changes: object) -> None:
    path = folder / "model_index.json"
    index = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in index.items() if value != "gone"}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", sorted(REQUIRED | {"anatomy_controller", "segmenter"}))
def test_missing_component_is_named(folder: Path, name: str) -> None:
    shutil.rmtree(folder / name)
    with pytest.raises(ModelError, match=f"is incomplete: folder {name} is missing"):
        XRealPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["vae", "unet", "text_encoder", "anatomy_controller", "segmenter"])
def test_broken_weights_are_named(folder: Path, name: str) -> None:
    truncate(weights(folder, name))
    with pytest.raises(ModelError, match=f"{name} cannot be opened"):
        XRealPipeline.from_pretrained(folder)
    weights(folder, name).unlink()
    with pytest.raises(ModelError, match=f"{name} holds no .safetensors weights"):
        XRealPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["vae", "unet", "text_encoder", "anatomy_controller", "segmenter"])
def test_weights_that_do_not_fit_are_refused(folder: Path, name: str) -> None:
    key = sorted(load_file(weights(folder, name)))[0]
    change_weights(folder, name, lambda tensors: tensors.update({key: torch.zeros(3, 5, 7)}))
    with pytest.raises(ModelError, match=name):
        XRealPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["vae", "unet", "text_encoder", "anatomy_controller", "segmenter"])
def test_missing_and_surplus_weights_are_refused(folder: Path, name: str) -> None:
    key = sorted(load_file(weights(folder, name)))[0]
    whole = weights(folder, name).read_bytes()
    change_weights(folder, name, lambda tensors: tensors.pop(key))
    with pytest.raises(ModelError, match=f"{name} .*{key.split('.')[-1]}"):
        XRealPipeline.from_pretrained(folder)
    weights(folder, name).write_bytes(whole)
    change_weights(folder, name, lambda tensors: tensors.update(surplus=torch.zeros(1)))
    with pytest.raises(ModelError, match=f"{name} .*surplus"):
        XRealPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unet": ["os", "system"]}, "component unet has class system; expected one of AutoencoderKL"),
        ({"vae": "gone", "tokenizer": "gone"}, "names no tokenizer, vae"),
        ({"scheduler": [None, None]}, "names no scheduler"),
    ],
)
def test_index_is_read_strictly(folder: Path, changes: dict[str, object], said: str) -> None:
    change_index(folder, **changes)
    with pytest.raises(ModelError, match=said):
        XRealPipeline.from_pretrained(folder)


def test_optional_components_may_be_absent(folder: Path) -> None:
    change_index(folder, segmenter="gone", anatomy_controller=[None, None])
    pipeline = XRealPipeline.from_pretrained(folder)
    assert pipeline.segmenter is None
    assert pipeline.anatomy_controller is None


def test_index_that_cannot_be_read(folder: Path) -> None:
    truncate(folder / "model_index.json")
    with pytest.raises(ModelError, match=r"is no model folder: model_index.json cannot be read"):
        XRealPipeline.from_pretrained(folder)
    with pytest.raises(ModelError, match="is no model folder"):
        XRealPipeline.from_pretrained(folder / "vae")


def test_neither_folder_nor_bundled(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither a folder nor a bundled model \(cxr-256\)"):
        resolve_folder(tmp_path / "nowhere")


def test_index_is_written_once_complete(folder: Path) -> None:
    before = read_index(folder)
    (folder / "model_index.json").unlink()
    shutil.move(folder / "unet", folder / "elsewhere")
    assert not write_index(folder)
    assert not (folder / "model_index.json").exists()
    shutil.move(folder / "elsewhere", folder / "unet")
    assert write_index(folder)
    assert read_index(folder) == before


def test_unreadable_configuration_is_named(folder: Path) -> None:
    truncate(folder / "vae" / "config.json")
    with pytest.raises(ModelError, match="does not say which class vae has"):
        write_index(folder)
    with pytest.raises(ModelError, match="vae cannot be opened"):
        XRealPipeline.from_pretrained(folder)


def test_hash_is_of_the_weights_alone(folder: Path) -> None:
    before = weights_hash(folder)
    (folder / "README.md").write_text("a model card")
    assert weights_hash(folder) == before
    key = sorted(load_file(weights(folder, "unet")))[0]
    change_weights(folder, "unet", lambda tensors: tensors[key].add_(1))
    assert weights_hash(folder) != before


def test_half_precision_weights_open_in_full(folder: Path) -> None:
    change_weights(folder, "vae", lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    assert {p.dtype for p in XRealPipeline.from_pretrained(folder).vae.parameters()} == {torch.float32}


def test_training_starts_from_stored_weights_and_keeps_fresh_layers(tmp_path: Path) -> None:
    stored, network = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(2, 3)
    save_file(stored.state_dict(), tmp_path / "weights.safetensors")
    bias = network.bias.detach().clone()
    start_from(network, tmp_path)
    assert torch.equal(network.weight, stored.weight)
    assert torch.equal(network.bias, bias)
    start_from(network, tmp_path / "missing")
    assert torch.equal(network.weight, stored.weight)


@pytest.mark.parametrize("network", [torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(2, affine=False)])
def test_training_does_not_start_from_another_shape(tmp_path: Path, network: torch.nn.Module) -> None:
    save_file(torch.nn.Linear(2, 3, bias=False).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="another shape"):
        start_from(network, tmp_path)
