"""``XRealPipeline.edit``: change a given X-ray, and leave it alone everywhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from xreal.control.blending import StepNoise
from xreal.control.editing import EditPlan, bring_back, edit_keep, fit_organs, plan_edit, smooth_removal
from xreal.control.solvers import build_solver
from xreal.errors import InputError, MaskError, ModelError
from xreal.images import fit_square
from xreal.inputs import StepCallback, check_settings
from xreal.masks.lesions import Lesion, warn_if_outside_lungs
from xreal.masks.organs import implausible
from xreal.masks.segmenter import segment
from xreal.models.autoencoder import decode_latents, encode_image
from xreal.models.precision import device_of
from xreal.pipeline_base import SteeredPipeline
from xreal.pipeline_output import XRealEditOutput
from xreal.vocabulary import Finding

__all__ = ["EditingPipeline"]

REMOVAL_GUIDANCE = 1.0  # towards "No Finding": 1 is that prompt itself; more makes the area darker than lung


class EditingPipeline(SteeredPipeline):
    """The part of ``XRealPipeline`` that edits."""

    @torch.inference_mode()
    def edit(
        self,
        image: np.ndarray,
        lesions: Lesion | Sequence[Lesion] = (),
        seeds: Sequence[int] = (0,),
        *,
        remove: np.ndarray | None = None,
        organ_mask: np.ndarray | None = None,
        protect: np.ndarray | None = None,
        strength: float = 0.8,
        prompt: str = "",
        solver: str = "dpm++",
        steps: int = 15,
        guidance: float | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> XRealEditOutput:
        """Change a given X-ray, once per seed: move organs, then add lesions and remove findings.

        Organs are moved with the X-ray's own pixels, which are warped. For the rest the X-ray takes the place of the
        healthy twin: its latents are kept at every step, but where findings go. The change is made at the model's size
        and added to the X-ray's own pixels.

        Args:
            image: (H, W) floats in [0, 1], MONOCHROME2, any size.
            lesions: one or several to be added; masks (H, W), over the organs as moved.
            seeds: one per edit, ≥ 0. Where only organs move, all edits are the same.
            remove: (H, W) in [0, 1]: where findings are to go.
            organ_mask: wanted ``Organ`` labels, (H, W) or the model's square, with both lungs and the heart. What the
                segmenter finds in the X-ray is moved to them.
            protect: (H, W); where it is above 0, no pixel changes.
            strength: share of the steps in which lesions are guided, and removed areas drawn freely; 0 to 1.
            prompt: of the X-ray without its lesions.
            solver: "dpm++", "ddim" (η = 0), "unipc" or "euler".
            steps: of the solver.
            guidance: w; each lesion's own strength multiplies it; default as in ``__call__``.
            callback_on_step_end: as in ``__call__``.

        Raises:
            InputError: a setting is out of range, or nothing is asked; ImageError, MaskError: image or mask not usable.
            ModelError: organs are to move, but the model has no segmenter.
        """
        # 1. Check everything before anything is computed.
        if not 0 <= strength <= 1:  # NaN fails too
            raise InputError(f"strength is {strength}; expected 0 (no change) to 1")
        use = check_settings(seeds, mode="regional", solver=solver, steps=steps, guidance=guidance, eta=0.0)
        guidance = self._guidance(use, self._tells_places(self.default_blend("regional").adapter))
        seeds = [int(seed) for seed in seeds]
        engine = build_solver(solver, self.scheduler, steps)
        image, size = np.asarray(image), int(self.image_size)
        lesions = [lesions] if isinstance(lesions, Lesion) else lesions
        organs = None
        if organ_mask is not None:
            after = fit_organs(organ_mask, image.shape, size)
            organs = self._find_organs(image, size), after

        plan = plan_edit(image, size, lesions, remove, organs, protect)  # with the organs moved

        # 2. Add and remove findings, one trajectory per seed.
        if plan.lesions or plan.remove.any():
            changes = self._change_findings(plan, seeds, engine, strength, prompt, guidance, callback_on_step_end)
        else:
            changes = np.zeros((len(seeds), size, size), np.float32)  # (B, S, S)

        # 3. Back to the X-ray's own pixels.
        return XRealEditOutput(
            images=np.stack([bring_back(plan.moved, change, plan.weight) for change in changes]),
            weight=np.maximum(plan.weight, plan.shifted),
            organ_masks=None if organs is None else np.stack(organs),
            seeds=seeds,
            settings={
                "solver": solver,
                "steps": steps,
                "guidance": guidance,
                "strength": strength,
                "prompt": prompt,
                "lesions": [{"finding": one.finding.value, "strength": one.strength} for one in plan.lesions],
                "masks": _hash(*(one.mask for one in lesions), remove, organ_mask, protect),
                **asdict(self.backend()),
            },
        )

    def _change_findings(
        self,
        plan: EditPlan,
        seeds: list[int],
        engine: Any,
        strength: float,
        prompt: str,
        guidance: float,
        callback: StepCallback | None,
    ) -> np.ndarray:
        """Draw the findings' changes as the model sees them, (B, S, S)."""
        vae, device = self.network("vae"), device_of(self.unet)
        square = torch.from_numpy(plan.square).to(device)[None, None]  # (1, 1, S, S)
        original = encode_image(vae, square)  # (1, c, h, w)
        steps = len(engine.timesteps)
        keep = edit_keep(plan, original, strength, steps)
        channels = int(self.unet.config.in_channels)
        noise = StepNoise(seeds, (channels, *self._latent_size), device, fixed=True)
        wanted = [(one.finding, one.mask, self._fade(one.mask), guidance * one.strength) for one in plan.lesions]
        if plan.remove.any():
            wanted.append((Finding.NO_FINDING, plan.remove, plan.remove, REMOVAL_GUIDANCE))
        embeds = self._embed([prompt, *(finding.value for finding, *_ in wanted)])
        findings = self._place_findings([wanted] * len(seeds), embeds, binary=False)
        start = steps - round(strength * steps)
        adapter = self.default_blend("regional").adapter
        organs = None
        if adapter > 0 and self.segmenter is not None:  # hearts and diaphragms stay where they are
            found = segment(self.network("segmenter"), square)  # (1, S, S)
            for lesion in plan.lesions if not implausible(found[0]) else ():
                warn_if_outside_lungs(lesion, found[0])
            organs = torch.from_numpy(found).repeat(len(seeds), 1, 1)  # (B, S, S)
        elif not self._tells_places(adapter):
            adapter = 0.0
        denoise = self._denoiser(embeds[prompt].repeat(len(seeds), 1, 1), organs, findings, adapter)
        walk = self._walk(engine, denoise, noise, 0.0, callback)
        _, latents = walk.side_by_side(keep, findings, start, steps)
        before = decode_latents(vae, original)[:, 0].cpu().numpy()  # (1, S, S)
        return smooth_removal(decode_latents(vae, latents)[:, 0].cpu().numpy() - before, plan.remove)

    def _find_organs(self, image: np.ndarray, size: int) -> np.ndarray:
        if self.segmenter is None:
            raise ModelError("this model has no segmenter; moving organs needs one: `xreal train --help`")
        found: np.ndarray = segment(self.network("segmenter"), torch.from_numpy(fit_square(image, size))[None, None])[0]
        if not found.any():
            raise MaskError("no organs are found in the X-ray; expected a frontal chest X-ray, to move its organs")
        return found


def _hash(*masks: np.ndarray | None) -> str:
    """Return the SHA-256 of masks, so that a record tells edits apart wherever their files lay."""
    digest = hashlib.sha256()
    for mask in masks:
        digest.update(b"none" if mask is None else np.ascontiguousarray(mask, np.float32).tobytes())
    return digest.hexdigest()
