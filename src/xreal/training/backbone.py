"""Stage: the text-to-image latent diffusion model, on latents encoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from xreal.config import Preset
from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError
from xreal.models.autoencoder import channel_effects, decode_latents
from xreal.models.backbone import Backbone, build_scheduler, build_unet, loss_weight, training_target
from xreal.models.folder import start_from
from xreal.models.organs import ORGAN_CHANNELS
from xreal.models.precision import default_device
from xreal.models.text_encoder import build_text_encoder, build_tokenizer, tokenize
from xreal.sheets import colour_labels
from xreal.training.latents import CachedLatents
from xreal.training.stage import Loss, Stage, white_noise
from xreal.training.transplant import SIMULATED, TRANSPLANT
from xreal.vocabulary import Finding

__all__ = ["BackboneStage", "LatentBatch", "as_large", "balanced_weights", "evened_dropout", "findings_alone"]

_ENOUGH_BOXES = 8  # images with boxes of a finding, from which on its name alone is taught by these only
_USUAL, _SMALLEST = 0.04, 0.004  # of the image: what an opacity covers; from what on a lesion weighs ten times as much
_SHEET_PROMPTS = ("", "No Finding", "No Finding, PA view, female", "Pneumonia", "Pneumonia, AP view", "Edema, AP view")


def balanced_weights(findings: Sequence[tuple[Finding, ...]], power: float = 0.5, fewest: int = 25) -> Tensor:
    """Weigh samples by their rarest finding, count^−power, so that rare findings come more often but not endlessly.

    Args:
        findings: of each sample.
        power: 0 leaves the data as they are, 1 makes all findings equally frequent.
        fewest: findings rarer than this are treated as if there were so many: a few images are not repeated without
            end.
    """
    counts = Counter(finding for names in findings for finding in names)
    rarest = [min((counts[name] for name in names), default=len(findings)) for names in findings]
    return torch.tensor([max(count, fewest) for count in rarest], dtype=torch.float32).pow(-power)


def evened_dropout(sampling_weights: Tensor, rate: float) -> Tensor:
    """Return how often each sample loses its prompt, (N,): all samples equally often in absolute numbers.

    The prompt "" then means an X-ray as the data have them, not one of the rare findings that balancing repeats.

    Args:
        sampling_weights: (N,) > 0, how often samples are drawn.
        rate: mean share of drawn samples without a prompt, 0 to 1; a little less where samples reach 1.
    """
    return (rate * sampling_weights.mean() / sampling_weights).clamp(max=1.0)


def findings_alone(
    findings: Sequence[tuple[Finding, ...]], boxed: Sequence[tuple[Finding, ...]], enough: int
) -> list[tuple[Finding, ...]]:
    """List the findings that each sample teaches by their name alone.

    Those of its boxes, and those of its label; but a finding that has boxes in enough images is taught by these only,
    for there it is seen, while a label of the whole image is often wrong or means something faint.

    Args:
        findings: labels of each sample.
        boxed: findings that have a box, of each sample.
        enough: images with a box.
    """
    counts = Counter(finding for names in boxed for finding in set(names))
    seen = {finding for finding, count in counts.items() if count >= enough}
    return [
        tuple(dict.fromkeys([*own, *(name for name in names if name not in seen)]))
        for names, own in zip(findings, boxed, strict=True)
    ]


def _kept_tokenizer(folder: Path, preset: Preset, start: Path | None) -> PreTrainedTokenizerFast:
    """Return the tokenizer that the run began with: token numbers stay, whatever words are added meanwhile."""
    if not folder.is_dir():
        if start is not None and (start / "tokenizer").is_dir():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(start / "tokenizer")
        else:
            tokenizer = build_tokenizer(preset.text_encoder)
        tokenizer.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def as_large(lesions: Tensor) -> Tensor:
    """Scale lesions (B, h, w) in [0, 1] that cover little: in all, a nodule weighs as much as an opacity."""
    covered = lesions.mean((1, 2), keepdim=True)
    return lesions * (_USUAL / covered.clamp(min=_SMALLEST)).clamp(min=1)


class LatentBatch(NamedTuple):
    """What a step of the diffusion model sees.

    Attributes:
        latents: (B, c, h, w), scaled.
        ids: token numbers (B, L).
        weights: of the loss, (B, h, w), 1 outside boxes.
        masks: what the network is told by name: "organ_mask" (B, H, W) uint8 ``Organ`` for one that sees organs, and
            "lesions" (B, 1, h, w) in [0, 1] for one that sees where the prompt's finding is.
    """

    latents: Tensor
    ids: Tensor
    weights: Tensor
    masks: dict[str, Tensor]


class BackboneStage(Stage):
    """Noise-prediction loss on cached latents of real X-rays and on their prompts.

    Attributes:
        sees_organs: whether the network takes the organ mask of each image.
        sees_lesions: whether it takes, beside organs, the place of the finding that the prompt names.
        organ_dropout: share of the organ masks that are left out, so that the network also draws without.
        lesion_dropout: share of the known places that are left out: most findings have a label but no known place;
            none of transplanted opacities and simulated findings.
        widened: weights of the U-Net that have more inputs than those of the backbone it may start from.
    """

    name = "backbone"
    sees_organs: ClassVar[bool] = False
    sees_lesions: ClassVar[bool] = False
    organ_dropout: ClassVar[float] = 0.0
    lesion_dropout: ClassVar[float] = 0.2
    widened: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, preset: Preset, data: Sequence[Path], autoencoder: AutoencoderKL, cache: Path, start: Path | None = None
    ) -> None:
        """Encode the data, or read what an earlier start of the same run encoded.

        Args:
            preset: sizes.
            data: prepared folders.
            autoencoder: trained, its ``scaling_factor`` set.
            start: model folder whose ``unet/``, ``text_encoder/`` and ``tokenizer/``, as far as they are there,
                training begins with.
            cache: folder for the tokenizer and the encoded latents; augmented copies are shifted, scaled and turned a
                little.

        Raises:
            DataError: the network needs organ masks, but no training or validation image has one.
        """
        super().__init__(preset)
        self.autoencoder = autoencoder.eval().requires_grad_(False).to(default_device())
        train_data, validation = PreparedDataset(data, "train"), PreparedDataset(data, "val")
        masked = train_data.with_organ_mask() if self.sees_organs else []
        self.validation_masked = validation.with_organ_mask() if self.sees_organs else []
        if self.sees_organs and not (masked and self.validation_masked):
            raise DataError("no organ masks in the prepared data; run `xreal prepare` with --segmenter")
        cache.mkdir(parents=True, exist_ok=True)
        copies = 1 + self.config.augmented_copies
        self.encoded = CachedLatents.encode(
            train_data, self.autoencoder, cache / "train", copies, self.sees_organs, on_device=True
        )
        self.held_out = CachedLatents.encode(validation, self.autoencoder, cache / "val", 1, self.sees_organs)
        with PartialState(cpu=default_device().type == "cpu").main_process_first():  # the others read what it writes
            self.tokenizer = self._tokenizer(cache / "tokenizer", start)
        self.validation_latents = self.held_out.take("latents", range(len(validation)))
        effects = channel_effects(self.autoencoder, self.validation_latents[:8].to(self.autoencoder.device))
        weights = effects**preset.backbone.channel_weight_power
        self.channel_weights = (weights / weights.mean()).view(1, -1, 1, 1).cpu()
        torch.manual_seed(self.config.seed)
        self.scheduler = self._schedule()
        self.input_ids = tokenize(self.tokenizer, train_data.prompts)
        self.finding_ids = dict(zip(Finding, tokenize(self.tokenizer, list(Finding)), strict=True))
        # Places tell what a finding looks like; who is told them learns of labels what patients who have it look like.
        enough = len(train_data) + 1 if self.sees_lesions else _ENOUGH_BOXES
        self.findings = findings_alone(train_data.findings, train_data.box_findings, enough)
        self.validation_ids = tokenize(self.tokenizer, validation.prompts)
        self.unprompted_ids = tokenize(self.tokenizer, [""])
        self.networks = {self.name: self._build(start)}
        self.placed = torch.tensor([name in (TRANSPLANT, SIMULATED) for name in train_data.sources])
        # Of what is not the patient's own, no finding is rarer: such an X-ray comes as often as the healthy one it was.
        own = [
            (Finding.NO_FINDING,) if placed else names
            for names, placed in zip(train_data.findings, self.placed.tolist(), strict=True)
        ]
        boxed = torch.tensor([bool(names) for names in train_data.box_findings]) & ~self.placed
        self.sampling_weights = balanced_weights(own) * torch.where(boxed, preset.backbone.box_sampling, 1.0)
        if self.sees_organs:
            has_mask = torch.zeros(len(train_data), dtype=torch.bool)
            has_mask[masked] = True
            self.sampling_weights *= has_mask
        self.dropout = self._dropout(preset.backbone.prompt_dropout)

    def _dropout(self, rate: float) -> Tensor:
        """Return how often each sample loses its prompt, (N,).

        Samples that come more often lose it less often: without a prompt, the data are as they are. Of transplanted
        opacities and simulated findings the place is always told, the name to half: a place means a finding then,
        whatever the prompt, and what findings mean is left to patients who have them.
        """
        return torch.where(self.placed, 0.5, evened_dropout(self.sampling_weights, rate))

    def _tokenizer(self, kept: Path, start: Path | None) -> PreTrainedTokenizerBase:
        return _kept_tokenizer(kept, self.preset, start)

    def _schedule(self) -> DDIMScheduler:
        return build_scheduler(self.preset.backbone)

    def _build(self, start: Path | None) -> Backbone:
        unet = build_unet(self.preset, ORGAN_CHANNELS if self.sees_organs else 0)
        backbone = Backbone(unet, build_text_encoder(self.preset.text_encoder))
        if start is not None:
            start_from(backbone.unet, start / "unet", self.widened)
            start_from(backbone.text_encoder, start / "text_encoder")
        return backbone

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> LatentBatch:
        """Draw a copy and a prompt for each sample.

        The prompt is that of the whole image (findings, view, sex), or one of its findings alone, as users ask for
        them, or empty. With a prompt, the boxes of the sample weigh more: what the prompt means is there. Places of
        transplanted opacities do so without one.
        """
        config, size = self.preset.backbone, len(indices)
        copies = torch.randint(0, self.encoded.copies, (size,), generator=generator)
        choices = torch.rand(3, size, generator=generator).tolist()
        ids, prompted = [], []
        placed = self.placed[list(indices)]
        for index, brief, which, dropped in zip(indices, *choices, strict=True):
            names = self.findings[index]
            alone = brief < config.detail_dropout and len(names) > 0
            prompted.append(dropped >= self.dropout[index])
            if not prompted[-1]:
                ids.append(self.unprompted_ids[0])
            else:
                ids.append(self.finding_ids[names[int(which * len(names))]] if alone else self.input_ids[index])
        boxes = self.encoded.take("lesions", indices, copies)
        boxes = boxes * (torch.tensor(prompted) | placed).view(-1, 1, 1).to(boxes)
        masks = {}
        if self.sees_organs:
            kept = torch.rand(size, 1, 1, generator=generator) >= self.organ_dropout
            organ_masks = self.encoded.take("organ_masks", indices, copies)
            masks["organ_mask"] = organ_masks * kept.to(organ_masks)
        if self.sees_lesions:
            told = (torch.rand(size, generator=generator) >= self.lesion_dropout) | placed
            masks["lesions"] = (boxes * told.view(-1, 1, 1).to(boxes))[:, None]
        latents = self.encoded.take("latents", indices, copies)
        return LatentBatch(latents, torch.stack(ids), 1 + config.box_weight * as_large(boxes), masks)

    def losses(self, batch: LatentBatch, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield the weighted squared error at random noise levels."""
        error = self._error(self.networks[self.name], batch, generator)
        loss = (error * batch.weights.to(error)).mean()
        yield Loss(self.name, loss, {"loss": loss.item()})

    def _error(self, network: nn.Module, batch: LatentBatch, generator: torch.Generator) -> Tensor:
        """Return the squared error, averaged over channels by their weight, (B, h, w)."""
        device = self.device
        noise = white_noise(batch.latents, generator).to(device)
        # One timestep per stratum: the same spread of noise levels in every batch.
        strata = torch.arange(len(noise)) + torch.rand(len(noise), generator=generator)
        timesteps = (1000 * (strata / len(noise)) ** self.preset.backbone.timestep_power).long().to(device)
        latents, masks = batch.latents.to(device), {name: mask.to(device) for name, mask in batch.masks.items()}
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = training_target(self.scheduler, latents, noise, timesteps)
        prediction = network(noisy, timesteps, batch.ids.to(device), **masks).float()
        squared = (prediction - target).square() * self.channel_weights.to(device)
        weight = loss_weight(self.scheduler, timesteps, self.preset.backbone.min_snr_gamma)
        return squared.mean(1) * weight.view(-1, 1, 1)

    def _organs(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"organ_mask": self.held_out.take("organ_masks", indices)} if self.sees_organs else {}

    def validate(self) -> dict[str, float]:
        """Return the loss on validation images with fixed noise.

        A network that sees lesions also has that in their boxes alone: "box_loss_told" where they are, and
        "box_loss_untold".
        """
        metrics = {"validation_loss": float(np.mean(self._held_out_errors(told=False)))}
        boxes = self.held_out.take("lesions", range(len(self.held_out))).numpy()
        if self.sees_lesions and boxes.any():
            for name, told in (("box_loss_told", True), ("box_loss_untold", False)):
                metrics[name] = float(np.average(self._held_out_errors(told), weights=boxes))
        return metrics

    def _held_out_errors(self, told: bool) -> np.ndarray:
        """Return the error on all validation images, (N, h, w), always with the same noise."""
        generator = torch.Generator().manual_seed(1)
        errors = []
        for indices in torch.arange(len(self.validation_latents)).split(32):
            latents, masks = self.validation_latents[indices], self._organs(indices.tolist())
            if told:
                masks["lesions"] = self.held_out.take("lesions", indices.tolist())[:, None]
            batch = LatentBatch(latents, self.validation_ids[indices], torch.ones_like(latents[:, 0]), masks)
            errors.append(self._error(self.network, batch, generator).cpu().numpy())
        return np.concatenate(errors)

    def sheet(self) -> list[list[np.ndarray]]:
        """Draw a few prompts with 20 unguided DPM-Solver++ steps, each prompt twice; above them their organ masks."""
        count = len(_SHEET_PROMPTS)
        solver = DPMSolverMultistepScheduler.from_config(self.scheduler.config)
        solver.set_timesteps(20, device=self.device)
        ids = tokenize(self.tokenizer, _SHEET_PROMPTS * 2).to(self.device)
        shown = (self.validation_masked * count)[:count]
        masks = self._organs(shown)
        organs = {name: mask.repeat(2, 1, 1).to(self.device) for name, mask in masks.items()}
        shape = (len(ids), *self.validation_latents.shape[1:])
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(self.device)
        for timestep in solver.timesteps:
            prediction = self.network(latents, timestep.expand(len(ids)), ids, **organs)
            latents = solver.step(prediction, timestep, latents).prev_sample
        images = [image[0].cpu().numpy() for image in decode_latents(self.autoencoder, latents)]
        rows = [images[:count], images[count:]]
        if not masks:
            return rows
        grey = [[np.repeat(image[..., None], 3, axis=2) for image in row] for row in rows]
        return [[colour_labels(mask) for mask in masks["organ_mask"].numpy()], *grey]

    def export(self, folder: Path) -> None:
        """Write ``unet/``, ``text_encoder/``, ``tokenizer/`` and ``scheduler/``."""
        network = self.network
        network.unet.save_pretrained(folder / "unet")
        network.text_encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
