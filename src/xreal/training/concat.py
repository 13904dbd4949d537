"""Stage of the paper's baseline of concatenation: the backbone again, with the organ mask in its input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from xreal.models.folder import save_component
from xreal.training.backbone import BackboneStage

__all__ = ["ConcatStage"]


class ConcatStage(BackboneStage):
    """The backbone again, with the organ mask beside the latents in its input; only images with organ masks.

    Begun from a backbone, it draws what that one draws until it has learnt what the mask says.

    Attributes:
        beside: components that belong to an autoencoder from elsewhere and go along with it, ``texture`` above all.
    """

    name = "concat"
    sees_organs = True
    organ_dropout = 0.1
    widened = ("conv_in.weight",)
    beside: Mapping[str, Any] = MappingProxyType({})

    def export(self, folder: Path) -> None:
        """Write what the backbone writes, and the autoencoder if it came from elsewhere."""
        super().export(folder)
        if not (folder / "vae").is_dir():
            save_component(self.autoencoder, folder / "vae")
            for name, component in self.beside.items():
                save_component(component, folder / name)
