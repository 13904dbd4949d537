"""Stage: the U-Net learns to predict what it would if it were guided away from a weaker version of itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xreal.config import Preset
from xreal.control.solvers import build_solver
from xreal.errors import TrainingError
from xreal.inputs import check_settings
from xreal.models.adopt import adopt
from xreal.models.autoencoder import decode_latents
from xreal.models.folder import load_components
from xreal.models.organs import adapter_features
from xreal.models.prompts import encode_prompts
from xreal.sheets import colour_labels
from xreal.training.backbone import LatentBatch
from xreal.training.stage import Loss, white_noise
from xreal.training.steering import Known, UNetStage

__all__ = ["AutoguidanceStage"]

_PART = 32


class AutoguidanceStage(UNetStage):
    """Autoguidance (arXiv 2406.02507), distilled (arXiv 2210.03142): drawing costs what it did.

    A U-Net that is small, or has seen few X-rays, draws beyond what X-rays look like: clavicles are missing, arms are
    wavy. An earlier state of its training errs in the same direction, but further. So the U-Net is taught
    ε + (w − 1) · (ε_∅ − ε_weak): what it predicted, moved by how the two differ without prompt and lesions. What
    prompts and places of findings change stays as it was, and so does what is drawn without an organ mask, which the
    same guidance makes worse (docs/log.md).
    """

    name = "autoguidance"
    organ_dropout = 0.3  # as in ``joint``; 0.1 lets go of X-rays without a mask (docs/log.md)
    guidance = 2.0  # w; 3 draws lungs hazy, as the weaker model's are not (docs/log.md)
    weak_organs = 0.8  # of what the weak one's adapter says: guidance then points to the mask too (docs/log.md)

    def __init__(self, preset: Preset, data: Sequence[Path], start: Path, weak: Path, cache: Path) -> None:
        """Open both models.

        Args:
            preset: length of the stage.
            data: prepared folders.
            start: trained model folder, with an adapter.
            weak: model folder of the same latents, trained for less long, or smaller.
            cache: folder for the encoded latents.

        Raises:
            TrainingError: the models differ in their latents or in what they predict, or the data have another image
                size.
        """
        super().__init__(preset, data, start, cache)
        loaded = load_components(weak, ("anatomy_adapter",))
        self.weak_adapter = loaded.pop("anatomy_adapter", None)
        parts = adopt(loaded)
        self._check_latents(weak, parts)
        self.weak = parts["unet"]
        for network in (self.weak, self.weak_adapter, parts["text_encoder"]):
            if network is not None:
                network.requires_grad_(False).eval().to(self.device)
        self.weak_embeds = encode_prompts(parts["tokenizer"], parts["text_encoder"], [""], self.device)

    def _check_latents(self, weak: Path, parts: dict[str, Any]) -> None:
        ours, theirs = self.components["vae"].state_dict(), parts["vae"].state_dict()
        same = ours.keys() == theirs.keys() and all(torch.equal(ours[key].cpu(), theirs[key]) for key in ours)
        kinds = {one.config.prediction_type for one in (self.scheduler, parts["scheduler"])}
        if not same or len(kinds) > 1:
            raise TrainingError(
                f"{weak} and {self.start} have other latents, or predict something else; the weaker model is an "
                "earlier state of the same one, with its vae/ and scheduler/"
            )

    def losses(self, batch: LatentBatch, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield the squared error against the guided prediction, at random noise levels."""
        error, before = self._errors(batch, generator)
        yield Loss(self.name, error, {"loss": error.item(), "unlearnt": (error / before).item()})

    def _errors(self, batch: LatentBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the error, and that of the U-Net of before: how far guidance moves it."""
        latents = batch.latents.to(self.device)
        noise = white_noise(latents, generator)
        strata = torch.arange(len(noise)) + torch.rand(len(noise), generator=generator)
        timesteps = (1000 * strata / len(noise)).long().to(self.device)
        noisy, known = self.scheduler.add_noise(latents, noise, timesteps), self._known(batch)
        before, wanted = self._guided(noisy, timesteps, batch, known)
        prediction = self._predicted(self.components["unet"], noisy, timesteps, known, self.strength)
        weights = self.channel_weights.to(self.device)
        error, error_before = ((weights * (one - wanted).square()).mean() for one in (prediction, before))
        return error, error_before

    @torch.no_grad()
    def _guided(self, noisy: Tensor, timesteps: Tensor, batch: LatentBatch, known: Known) -> tuple[Tensor, Tensor]:
        """Return what the U-Net of before predicts, (B, c, h, w), and what that is with guidance."""
        organs = batch.masks["organ_mask"]
        alone = self._known(batch._replace(ids=self._no_prompts(len(noisy)), masks={"organ_mask": organs}))
        before, healthy = (
            self._predicted(self.before, noisy, timesteps, told, self.strength) for told in (known, alone)
        )
        strength = self.weak_organs * self.strength
        weak = self._predicted(self.weak, noisy, timesteps, self._known_to_weak(organs), strength)
        masked = organs.flatten(1).any(1).view(-1, 1, 1, 1).to(before)
        return before, before + masked * (self.guidance - 1) * (healthy - weak)

    def _no_prompts(self, count: int) -> Tensor:
        return self.unprompted_ids.expand(count, -1)

    def _known_to_weak(self, organs: Tensor) -> Known:
        embeds = self.weak_embeds.expand(len(organs), -1, -1)
        if self.weak_adapter is None:
            return embeds, []
        with self.autocast():
            return embeds, adapter_features(self.weak_adapter, self.weak, organs.to(self.device))

    def validate(self) -> dict[str, float]:
        """Return the error on validation images with fixed noise, and its share of the error before, 1 at first."""
        generator, errors = torch.Generator().manual_seed(1), []
        for some in torch.tensor(self.validation_masked).split(_PART):
            batch = self._held_out(some.tolist())
            errors.append([len(some) * error.item() for error in self._errors(batch, generator)])
        error, before = np.sum(errors, axis=0) / len(self.validation_masked)
        return {"validation_loss": float(error), "unlearnt": float(error / before)}

    def _held_out(self, indices: Sequence[int]) -> LatentBatch:
        latents = self.validation_latents[list(indices)]
        ids = self.validation_ids[list(indices)]
        return LatentBatch(latents, ids, torch.ones_like(latents[:, 0]), self._organs(indices))

    @torch.no_grad()
    def sheet(self) -> list[list[np.ndarray]]:
        """Draw validation masks without a prompt, by the U-Net of before and as it draws now."""
        shown = self.validation_masked[:8]
        batch = self._held_out(shown)._replace(ids=self._no_prompts(len(shown)))
        noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(2)).to(self.device)
        noise = self._start(noise, batch)
        rows = [[colour_labels(mask) for mask in batch.masks["organ_mask"].numpy()]]
        for unet in (self.before, self.components["unet"]):
            solver = build_solver("dpm++", self.scheduler, check_settings([0]).steps, placed=True)
            latents = self._walk(unet, noise, solver, solver.timesteps, self._known(batch))
            images = decode_latents(self.autoencoder, latents)[:, 0].cpu().numpy()
            rows.append([np.repeat(image[..., None], 3, axis=2) for image in images])
        return rows
