"""Stage: the KL autoencoder, pixels <-> latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from monai.losses.adversarial_loss import PatchAdversarialLoss
from monai.losses.ssim_loss import SSIMLoss
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from skimage.metrics import structural_similarity
from torch import Tensor

from xreal.config import Preset
from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset
from xreal.models.autoencoder import PatchAutoencoderKL, build_autoencoder
from xreal.training.stage import Loss, Stage

__all__ = ["AutoencoderStage", "Reconstruction"]


class Reconstruction:
    """Loss between a reconstruction and its target: L1 + SSIM + patch adversarial.

    The structural term needs no downloaded network. The adversarial weight is smaller than the paper's 0.5, which
    belongs to an L1 summed over pixels.
    """

    ssim_weight = 0.1

    def __init__(self, channels: int, adversarial_weight: float = 0.005) -> None:
        self.adversarial_weight = adversarial_weight
        self.ssim = SSIMLoss(spatial_dims=2, data_range=1.0)
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")
        self.discriminator = PatchDiscriminator(
            spatial_dims=2, channels=32, in_channels=channels, num_layers_d=3, norm="INSTANCE"
        )

    def generator_terms(self, output: Tensor, target: Tensor, adversarial: bool) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of the network that made ``output`` and its parts."""
        l1 = (output - target).abs().mean()
        structure = self.ssim(output.float(), target)
        loss = l1 + self.ssim_weight * structure
        parts = {"l1": l1.item(), "ssim_loss": structure.item()}
        if adversarial:
            fooled = self.adversarial(self.discriminator(output)[-1], target_is_real=True, for_discriminator=False)
            loss = loss + self.adversarial_weight * fooled
            parts["adversarial"] = fooled.item()
        return loss, parts

    def discriminator_loss(self, output: Tensor, target: Tensor) -> Loss:
        """Return the discriminator's own loss."""
        fake = self.adversarial(self.discriminator(output.detach())[-1], target_is_real=False, for_discriminator=True)
        real = self.adversarial(self.discriminator(target)[-1], target_is_real=True, for_discriminator=True)
        loss = 0.5 * (fake + real)
        return Loss("discriminator", loss, {"discriminator": loss.item()})


def psnr_and_ssim(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return mean PSNR in dB and SSIM of images (B, 1, H, W) in [0, 1]."""
    errors = (outputs - targets).square().mean((1, 2, 3)).clamp_min(1e-10)
    ssim = [
        structural_similarity(a[0].numpy(), b[0].numpy(), data_range=1.0)
        for a, b in zip(outputs.cpu(), targets.cpu(), strict=True)
    ]
    return {"psnr": float((-10 * errors.log10()).mean()), "ssim": float(np.mean(ssim))}


class AutoencoderStage(Stage):
    """Reconstruction, 1e-6 KL and, late, a patch discriminator, on random crops."""

    name = "autoencoder"
    kl_weight = 1e-6
    adversarial_weight = 0.005
    validation_images = 48

    def __init__(self, preset: Preset, data: Sequence[Path]) -> None:
        super().__init__(preset)
        self.train_data = PreparedDataset(data, "train")
        validation = PreparedDataset(data, "val")
        stride = max(1, len(validation) // self.validation_images)
        self.validation = collate([validation[i] for i in range(0, len(validation), stride)][: self.validation_images])
        torch.manual_seed(self.config.seed)
        network = self._build()
        self.reconstruction = Reconstruction(preset.autoencoder.image_channels, self.adversarial_weight)
        self.networks = {"autoencoder": network}
        if self.config.adversarial_from >= 0:
            self.networks["discriminator"] = self.reconstruction.discriminator
        self.sampling_weights = torch.ones(len(self.train_data))

    def _build(self) -> AutoencoderKL:
        network = build_autoencoder(self.preset.autoencoder, self.preset.image_size)
        if isinstance(network, PatchAutoencoderKL):
            stride = max(1, len(self.train_data) // 300)
            some = collate([self.train_data[i] for i in range(0, len(self.train_data), stride)])
            network.initialise(self._pixels(some.image))
        return network

    def _pixels(self, image: Tensor) -> Tensor:
        return image.expand(-1, self.preset.autoencoder.image_channels, -1, -1)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return random crops (B, C, crop, crop), brightness and contrast varied."""
        image = collate([self.train_data[i] for i in indices]).image
        side = self.config.crop or image.shape[-1]
        corners = torch.randint(0, image.shape[-1] - side + 1, (len(image), 2), generator=generator).tolist()
        crops = torch.stack([img[:, y : y + side, x : x + side] for img, (y, x) in zip(image, corners, strict=True)])
        gain = 1 + 0.2 * (torch.rand(len(crops), 1, 1, 1, generator=generator) - 0.5)
        return self._pixels((crops * gain).clamp(0, 1))

    def losses(self, batch: Tensor, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield the autoencoder's loss, then the discriminator's."""
        autoencoder = self.networks["autoencoder"]
        target = batch.to(next(autoencoder.parameters()).device)
        with self.autocast():
            posterior = autoencoder.encode(target).latent_dist
            output = autoencoder.decode(posterior.sample(generator=generator)).sample.float()
        adversarial = 0 <= self.config.adversarial_from <= step
        loss, parts = self.reconstruction.generator_terms(output, target, adversarial)
        kl = posterior.kl().mean()
        yield Loss("autoencoder", loss + self.kl_weight * kl, parts | {"kl": kl.item()})
        if adversarial:
            yield self.reconstruction.discriminator_loss(output, target)

    def _reconstruct(self, image: Tensor) -> Tensor:
        network = self.network
        pixels = self._pixels(image).to(next(network.parameters()).device)
        return (
            torch.cat([network(part).sample.float().mean(1, keepdim=True) for part in pixels.split(8)])
            .clamp(0, 1)
            .cpu()
        )

    def validate(self) -> dict[str, float]:
        """Return PSNR and SSIM on whole validation images."""
        return psnr_and_ssim(self._reconstruct(self.validation.image), self.validation.image)

    def sheet(self) -> list[list[np.ndarray]]:
        """Draw real X-rays over their reconstructions."""
        real = self.validation.image[:: max(1, len(self.validation.image) // 6)][:6]
        return [[img[0].numpy() for img in images] for images in (real, self._reconstruct(real))]

    def export(self, folder: Path) -> None:
        """Write ``vae/``, its latents scaled to unit variance on the validation images."""
        network = self.network
        device = next(network.parameters()).device
        latents = torch.cat(
            [
                network.encode(self._pixels(part).to(device)).latent_dist.mode()
                for part in self.validation.image.split(8)
            ]
        )
        network.register_to_config(scaling_factor=float(1 / latents.std()))
        network.save_pretrained(folder / "vae")
