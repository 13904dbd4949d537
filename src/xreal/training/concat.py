"""Stage of the paper's baseline of concatenation: the backbone again, with the organ mask in its input."""

from __future__ import annotations

from pathlib import Path

from xreal.models.folder import save_component
from xreal.models.texture import Texture
from xreal.training.backbone import BackboneStage

__all__ = ["ConcatStage"]


class ConcatStage(BackboneStage):
    """The backbone again, with the organ mask beside the latents in its input; only images with organ masks.

    Begun from a backbone, it draws what that one draws until it has learnt what the mask says.

    Attributes:
        texture: what the autoencoder's decoder leaves out, where its model has learnt it; goes along with it.
    """

    name = "concat"
    sees_organs = True
    organ_dropout = 0.1
    widened = ("conv_in.weight",)
    texture: Texture | None = None

    def export(self, folder: Path) -> None:
        """Write what the backbone writes, and the autoencoder if it came from elsewhere."""
        super().export(folder)
        if not (folder / "vae").is_dir():
            save_component(self.autoencoder, folder / "vae")
            if self.texture is not None:
                save_component(self.texture, folder / "texture")
