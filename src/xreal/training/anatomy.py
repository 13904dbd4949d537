"""Stage: the Anatomy Controller, organ mask -> the X-ray it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from xreal.config import Preset
from xreal.control.anatomy import draw_prior, organ_mask_to_pixels
from xreal.data.augment import STILL_EDGES, random_affine
from xreal.data.contract import Batch, collate
from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError
from xreal.models.autoencoder import from_pixels, to_pixels
from xreal.sheets import colour_labels
from xreal.training.autoencoder import Reconstruction, psnr_and_ssim
from xreal.training.stage import Loss, Stage

__all__ = ["AnatomyStage"]


class AnatomyStage(Stage):
    """Target: always the X-ray. Input: its organ mask, with probability ``mask_share``, else the X-ray itself."""

    name = "anatomy"
    kl_weight = 1e-6
    mask_share = 0.5  # METHOD: the paper's
    validation_images = 48

    def __init__(self, preset: Preset, data: Sequence[Path], autoencoder: AutoencoderKL) -> None:
        """Start from the trained autoencoder, ours or another latent model's: it already knows how to draw X-rays.

        Losses are taken in [0, 1], whatever range the autoencoder's pixels have.

        Raises:
            DataError: no training or validation image has an organ mask.
        """
        super().__init__(preset)
        self.train_data, validation = PreparedDataset(data, "train"), PreparedDataset(data, "val")
        self.indices, held_out = self.train_data.with_organ_mask(), validation.with_organ_mask()
        if not self.indices or not held_out:
            raise DataError("no organ masks in the prepared data; run `xreal prepare` with --segmenter")
        stride = max(1, len(held_out) // self.validation_images)
        self.validation = collate([validation[i] for i in held_out[::stride][: self.validation_images]])
        torch.manual_seed(self.config.seed)
        self.reconstruction = Reconstruction(autoencoder.config.in_channels)
        self.networks = {"anatomy_controller": autoencoder.train()}
        if self.config.adversarial_from >= 0:
            self.networks["discriminator"] = self.reconstruction.discriminator
        self.sampling_weights = torch.ones(len(self.indices))

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Batch:
        """Read samples and move them a little, image and mask alike."""
        batch = collate([self.train_data[self.indices[i]] for i in indices])
        image, mask = random_affine(batch.image, generator, batch.organ_mask, edges=STILL_EDGES)
        assert mask is not None
        return Batch(image, mask, batch.prompts, batch.image_ids)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield the controller's loss, then the discriminator's."""
        network = self.networks["anatomy_controller"]
        device = next(network.parameters()).device
        image = batch.image.to(device)
        from_mask = (torch.rand(len(image), 1, 1, 1, generator=generator) < self.mask_share).to(device)
        seen = torch.where(from_mask, organ_mask_to_pixels(batch.organ_mask).to(device), image)
        with self.autocast():
            posterior = network.encode(to_pixels(self.network, seen)).latent_dist
            decoded = network.decode(posterior.sample(generator=generator)).sample
        output = from_pixels(self.network, decoded)
        target = image.expand_as(output)
        adversarial = 0 <= self.config.adversarial_from <= step
        loss, parts = self.reconstruction.generator_terms(output, target, adversarial)
        kl = posterior.kl().mean()
        yield Loss("anatomy_controller", loss + self.kl_weight * kl, parts | {"kl": kl.item()})
        if adversarial:
            yield self.reconstruction.discriminator_loss(output, target)

    def _priors(self, organ_mask: Tensor) -> Tensor:
        priors = [draw_prior(self.network, part).mean(1, keepdim=True) for part in organ_mask.split(8)]
        return torch.cat(priors).cpu()

    def validate(self) -> dict[str, float]:
        """Return PSNR and SSIM of priors against the X-rays that own the masks."""
        return psnr_and_ssim(self._priors(self.validation.organ_mask), self.validation.image)

    def sheet(self) -> list[list[np.ndarray]]:
        """Draw masks, priors, real X-rays."""
        mask = self.validation.organ_mask[:6]
        priors = [np.repeat(prior[0].numpy()[..., None], 3, axis=2) for prior in self._priors(mask)]
        real = [np.repeat(image[0].numpy()[..., None], 3, axis=2) for image in self.validation.image[:6]]
        return [[colour_labels(m) for m in mask.numpy()], priors, real]

    def export(self, folder: Path) -> None:
        """Write ``anatomy_controller/``."""
        self.network.register_to_config(_name_or_path="")  # where the autoencoder lay is nobody's business
        self.network.save_pretrained(folder / "anatomy_controller")
