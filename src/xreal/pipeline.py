"""XRealPipeline: organ mask, findings and lesion masks in; chest X-rays out.

| paper | here |
|---|---|
| E_G, D_G | ``vae`` |
| E_v, D_v | ``anatomy_controller`` |
| τ | ``tokenizer``, ``text_encoder`` |
| ε_θ | ``unet`` |
| m_a, m_p | ``organ_mask``, ``Lesion.mask`` |
| x̂ | ``priors`` |
| x_a, x_p | ``healthy``, ``images`` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch

from xreal.control.anatomy import (
    AnatomyBlend,
    anatomy_keep_mask,
    anatomy_keep_steps,
    draw_prior,
    start_noise_scale,
)
from xreal.control.blending import Keep, StepNoise, leak_generators, texture_generators
from xreal.control.solvers import build_solver
from xreal.inputs import Mode, Quality, StepCallback, check_settings, lesions_per_image, prompts_per_image
from xreal.masks.areas import feather
from xreal.masks.lesions import Lesion
from xreal.models.autoencoder import decode_pixels, encode_image, grey
from xreal.models.precision import device_of
from xreal.pipeline_edit import EditingPipeline
from xreal.pipeline_output import XRealPipelineOutput

__all__ = ["XRealPipeline"]

FEATHER_PIXELS = 6.0  # soft edge of the exact composite, a bit under one latent (8 pixels)


class XRealPipeline(EditingPipeline):
    """Text-to-image latent diffusion with an Anatomy Controller and a Pathology Controller (arXiv 2403.09240).

    Instead of the Anatomy Controller, a ``controlnet`` or a U-Net with the organ mask in its input may steer the
    anatomy: the paper's baselines.
    """

    @torch.inference_mode()
    def __call__(
        self,
        organ_mask: np.ndarray | None = None,
        lesions: Lesion | Sequence[Lesion] | Sequence[Sequence[Lesion]] = (),
        seeds: Sequence[int] = (0,),
        *,
        prompt: str | Sequence[str] = "",
        quality: Quality = "default",
        mode: Mode | None = None,
        solver: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
        anatomy: AnatomyBlend | None = None,
        lesion_start: float = 0.1,
        lesion_until: float = 1.0,
        exact: bool = False,
        texture: float | None = None,
        prompt_guidance: float | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> XRealPipelineOutput:
        """Draw one chest X-ray per seed.

        Args:
            organ_mask: ``Organ`` labels, (H, W) for all images or (B, H, W); any size, padded to a square and brought
                to the model's by nearest neighbour. None: the model chooses the anatomy (plain text-to-image).
            lesions: one or several of all images, or one sequence per image; masks of the organ mask's size.
            seeds: one per image, ≥ 0. Image i depends on its own seed alone, not on the batch.
            prompt: of the X-ray beyond its lesions, and of its twin, one for all images or one per image; "" as in the
                paper. ``{findings}`` stands for the image's own findings: all of it then looks like the X-ray of such a
                patient, the twin too.
            quality: "draft", "default" or "reference": mode, solver, steps and η together, each of which can be
                given instead. "reference" is the authors' procedure.
            mode: "regional" draws the X-ray and its healthy twin in one trajectory; "two-pass" is the authors'
                procedure: a healthy X-ray first, the lesions into it afterwards.
            solver: "ddim", "dpm++", "unipc" or "euler"; default "dpm++", for two-pass "ddim".
            steps: of the solver, for each pass; default 6, draft 4, for two-pass 100.
            guidance: w; each lesion's own strength multiplies it. Default 2 where the adapter knows the places
                of findings, else 9; for two-pass the paper's 7.
            eta: DDIM's η, noise renewed at each step; default 0, for two-pass 1. Other solvers take 0 only.
            anatomy: how the organ mask acts; default the paper's way, in regional mode by the model's adapter alone
                or, without one, by the prior until 0.9 of the steps along the contours, with the variety of real X-rays
                where the model knows it.
            lesion_start: regional mode: share of the steps after which lesions are drawn. Earlier changes the
                anatomy below them more and costs more network calls; 1 draws none.
            lesion_until: regional mode: share of the steps after which lesions are left to the solver: guidance costs a
                network call of its own and, at the end, shapes hardly more than noise (arXiv 2404.07724).
            exact: take every pixel beyond the feathered lesions from the healthy twin, unchanged to the last bit.
            texture: how much of what the decoder leaves out, grain above all, is added to image and twin alike, where
                the model knows it: 1 as in real X-rays, 0 none; default 1, for two-pass 0.
            prompt_guidance: w of ``prompt`` against no prompt, everywhere in the X-ray and its twin, the usual
                classifier-free guidance; 1 draws it as it is. Costs a network call for each of them and step; default
                3, for two-pass 1.
            callback_on_step_end: called after each step as in diffusers: pipeline, number of the step (two-pass counts
                on), timestep, ``{"latents": ...}``: (B, c, h, w), with lesions in regional mode (2B, c, h, w), healthy
                twins first. It may return such a dictionary, with other latents, and raise to stop.

        Raises:
            InputError: a setting is out of range, or there are other numbers of prompts or masks than of images.
            MaskError, FindingError: a mask or a lesion is not usable.
            ModelError: the model has no Anatomy Controller but an organ mask was given.
        """
        # 1. Check everything before anything is computed.
        use = check_settings(
            seeds, quality, mode, solver, steps, guidance, eta, lesion_start, lesion_until, texture, prompt_guidance
        )
        two_pass, steps, eta = use.mode == "two-pass", use.steps, use.eta
        seeds = [int(seed) for seed in seeds]
        blend = anatomy or self.default_blend(use.mode)
        if self.anatomy_variation is None:
            blend = replace(blend, variety=0.0)
        organs = self._check_organs(organ_mask, len(seeds))  # (B, H, W) or None
        per_image = lesions_per_image(lesions, organ_mask, len(seeds), self.image_size)
        placed = self._tells_places(blend.adapter)
        if self.anatomy_adapter is None or (organs is None and not (placed and any(per_image))):
            blend = replace(blend, adapter=0.0)
        guidance = self._guidance(use, placed)
        engine = build_solver(use.solver, self.scheduler, steps, placed=not two_pass)
        device = device_of(self.unet)

        # 2. Prompts, encoded at once: the X-ray's own, and one per finding.
        vae, controller = self.network("vae", quality), self.network("anatomy_controller", quality)
        faded = [[self._fade(one.mask) for one in own] for own in per_image]
        wanted = [
            [(one.finding, one.mask, soft, guidance * one.strength) for one, soft in zip(own, softs, strict=True)]
            for own, softs in zip(per_image, faded, strict=True)
        ]
        prompts = prompts_per_image(prompt, per_image)
        embeds = self._embed(["", *prompts, *(one.finding.value for own in per_image for one in own)], quality)
        findings = self._place_findings(wanted, embeds, binary=two_pass)
        own_prompts = torch.stack([embeds[one] for one in prompts])  # (B, L, d)
        denoise = self._denoiser(own_prompts, organs, findings, blend.adapter, quality)
        if any(prompts) and use.prompt_guidance != 1:
            denoise = replace(denoise, guidance=use.prompt_guidance, unprompted=embeds[""])

        # 3. Anatomy: prior image -> reference latents, where they are kept and until which step.
        renew = eta > 0
        latent_shape = (int(self.unet.config.in_channels), *self._latent_size)
        noise = StepNoise(seeds, latent_shape, device, fixed=not renew)
        priors, keep = None, None
        if organs is not None and controller is not None and blend.keeps:
            priors = draw_prior(controller, organs)  # (B, 1 or 3, H, W)
            reference = encode_image(vae, priors, noise.reference_generators)  # (B, c, h, w)
            if blend.variety > 0:
                reference = reference + blend.variety * self.anatomy_variation(noise.reference_generators)
            keep_mask = anatomy_keep_mask(organs, self._latent_size, blend, steps).to(device)  # (B, 1, h, w)
            keep_steps = anatomy_keep_steps(organs, self._latent_size, blend, steps).to(device)  # (B, 1, h, w)
            keep = Keep(reference, keep_mask, keep_steps)

        # 4. Trajectories: X-ray and healthy twin side by side, or the lesions into the decoded twin afterwards.
        together = None if two_pass else findings
        start, until = round(lesion_start * steps), round(lesion_until * steps)
        leak = None
        if self.signal_leak is not None and not two_pass:
            leak = self.signal_leak(leak_generators(seeds)).to(device)  # (B, c, h, w)
        scale = None
        if organs is not None and blend.outside_noise < 1:
            scale = start_noise_scale(organs, self._latent_size, blend.outside_noise).to(device)  # (B, 1, h, w)
        walk = self._walk(engine, denoise, noise, eta, callback_on_step_end, leak=leak, noise_scale=scale)
        healthy_latents, latents = walk.side_by_side(keep, together, start, until)
        healthy = decode_pixels(vae, healthy_latents)  # (B, 1 or 3, H, W)
        if findings is None:
            images = healthy
        elif not two_pass:  # from the twin at a lesion's border to what is drawn in it: no edge where guidance ends
            nowhere = np.zeros(healthy.shape[-2:], np.float32)
            seen = torch.from_numpy(np.stack([np.max([nowhere, *softs], axis=0) for softs in faded]))
            images = torch.lerp(healthy, decode_pixels(vae, latents), seen[:, None].to(device))
        else:
            noise = StepNoise(seeds, latent_shape, device, fixed=not renew, trajectory=1)
            reference = encode_image(vae, healthy, noise.reference_generators)
            engine = build_solver(use.solver, self.scheduler, steps)
            latents = self._walk(engine, denoise, noise, eta, callback_on_step_end, steps).inpaint(reference, findings)
            images = decode_pixels(vae, latents)
            without = torch.tensor([not own for own in per_image], device=device)
            images[without] = healthy[without]  # nothing to draw: spared the autoencoder's round trip

        # 5. Texture, the same of both; composite, and hand over.
        texture = 0.0 if (self.detail, self.texture) == (None, None) else use.texture
        if texture > 0:
            tracks = [healthy] if findings is None else [healthy, images]
            tracks = self.with_detail([grey(track) for track in tracks], texture, quality)
            if self.texture is not None:
                film = self.texture.film(tracks[0], texture_generators(seeds))
                tracks = [self.texture(track, film, texture) for track in tracks]
            healthy, images = tracks[0], tracks[-1]
        size = self.image_size
        masks = [np.array([lesion.mask for lesion in own], np.float32).reshape(-1, size, size) for own in per_image]
        pictures, twins = (grey(some)[:, 0].cpu().numpy() for some in (images, healthy))
        if exact and findings is not None:
            pictures = np.stack([_composite(*triple) for triple in zip(pictures, twins, per_image, strict=True)])
        return XRealPipelineOutput(
            images=pictures,
            healthy=None if findings is None else twins,
            priors=None if priors is None else grey(priors)[:, 0].cpu().numpy(),
            organ_masks=None if organs is None else organs.numpy(),
            lesion_masks=masks,
            seeds=seeds,
            settings={
                "mode": use.mode,
                "solver": use.solver,
                "steps": steps,
                "guidance": guidance,
                "eta": eta,
                "prompt": prompt if isinstance(prompt, str) else list(prompt),
                "prompt_guidance": use.prompt_guidance,
                "lesion_start": lesion_start,
                "lesion_until": lesion_until,
                "exact": exact,
                "texture": texture,
                "anatomy": asdict(blend),
                **asdict(self.backend(quality)),
            },
        )


def _composite(image: np.ndarray, healthy: np.ndarray, lesions: list[Lesion]) -> np.ndarray:
    """Take pixels beyond the feathered lesions from the healthy twin, bit for bit."""
    if not lesions:
        return healthy
    weight = np.max([feather(lesion.mask, FEATHER_PIXELS) for lesion in lesions], axis=0)
    return np.where(weight > 0, healthy + weight * (image - healthy), healthy)
