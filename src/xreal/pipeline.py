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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from xreal.control.anatomy import AnatomyBlend, anatomy_keep_mask, anatomy_keep_steps, draw_prior
from xreal.control.blending import Keep, StepNoise, texture_generators
from xreal.control.denoiser import Denoiser
from xreal.control.pathology import LatentLesions, lesions_to_latents
from xreal.control.solvers import build_solver
from xreal.control.walk import Walk
from xreal.errors import InputError, ModelError
from xreal.inputs import (
    PLACED_GUIDANCE,
    Mode,
    Quality,
    Settings,
    StepCallback,
    check_settings,
    default_blend,
    lesions_per_image,
    prompts_per_image,
)
from xreal.masks.lesions import Lesion, fade, feather
from xreal.masks.organs import check_organ_mask, resize_organ_mask
from xreal.models.adopt import adopt
from xreal.models.autoencoder import decode_pixels, downsampling, encode_image
from xreal.models.backends import Backend, Networks, choose_backend
from xreal.models.folder import load_components, resolve_folder
from xreal.models.organs import ControlledUNet, adapter_features, knows_lesions, sees_organs
from xreal.models.precision import device_of
from xreal.models.prompts import encode_prompts
from xreal.pipeline_edit import EditMixin
from xreal.pipeline_output import XRealPipelineOutput
from xreal.vocabulary import Finding

__all__ = ["XRealPipeline"]

FEATHER_PIXELS = 6.0  # soft edge of the exact composite, a bit under one latent (8 pixels)
FADE_LATENTS = 1.5  # over which guidance fades inside a lesion: a box guided alike up to its edge is drawn as a square


class XRealPipeline(EditMixin, DiffusionPipeline):
    """Text-to-image latent diffusion with an Anatomy Controller and a Pathology Controller (arXiv 2403.09240).

    Instead of the Anatomy Controller, a ``controlnet`` or a U-Net with the organ mask in its input may steer the
    anatomy: the paper's baselines.
    """

    _optional_components = [  # noqa: RUF012 (diffusers' own way)
        "anatomy_adapter",
        "anatomy_controller",
        "anatomy_variation",
        "controlnet",
        "segmenter",
        "texture",
    ]
    model_cpu_offload_seq = "text_encoder->anatomy_controller->unet->vae"

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        anatomy_controller: Any = None,
        anatomy_variation: Any = None,
        anatomy_adapter: Any = None,
        segmenter: Any = None,
        controlnet: Any = None,
        texture: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            anatomy_controller=anatomy_controller,
            anatomy_variation=anatomy_variation,
            anatomy_adapter=anatomy_adapter,
            segmenter=segmenter,
            controlnet=controlnet,
            texture=texture,
        )
        self.use_backend("torch")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, backend: str = "auto") -> XRealPipeline:
        """Open a bundled model by name, a model folder, or the folder of a Stable Diffusion 1.x, 2.x or LDM pipeline.

        Args:
            name_or_path: name or folder.
            backend: see ``use_backend``.

        Raises:
            ModelError: no such folder, a component is missing, truncated, of another shape or of a kind that needs
                more than a prompt; or the backend cannot be used.
        """
        choose_backend(backend, torch.device("cpu"))  # before anything is opened
        components = load_components(resolve_folder(name_or_path), cls._optional_components)
        return cls(**components | adopt(components)).use_backend(backend)

    def use_backend(self, name: str = "auto") -> XRealPipeline:
        """Say what computes the networks, and return the pipeline; a new one is "torch", an opened one "auto".

        Args:
            name: "torch" (eager float32), "torch-bf16", "openvino", or "auto": the fastest that is installed and that
                the processor supports, for all but the quality "reference", which stays eager.

        Raises:
            InputError: an unknown name. ModelError: it needs what is not installed, or what the processor lacks.
        """
        choose_backend(name, device_of(self.unet))
        self._networks = Networks(name)
        return self

    def backend(self, quality: Quality = "default") -> Backend:
        """Return what computes at that quality."""
        return choose_backend(self._networks.name, device_of(self.unet), quality)

    def network(self, name: str, quality: Quality = "default") -> Any:
        """Return a component, or what stands in for it under the backend; None where the model has none."""
        original = getattr(self, name)
        return original if self.backend(quality).eager else self._networks.get(name, original)

    @classmethod
    def from_pipe(cls, pipe: Any, anatomy_controller: Any = None, segmenter: Any = None) -> XRealPipeline:
        """Steer another diffusers latent text-to-image pipeline: Stable Diffusion 1.x or 2.x, LDMTextToImagePipeline.

        Args:
            pipe: its networks are shared, not copied, and brought to float32. Its autoencoder's pixels lie in [−1, 1],
                unless its configuration holds ``_pixel_range``.
            anatomy_controller: KL autoencoder that turns organ masks into X-rays (`xreal train anatomy`).
            segmenter: X-ray -> organ mask, to check what is drawn.

        Raises:
            ModelError: the pipeline is of another kind.
        """
        components = adopt(getattr(pipe, "components", {}))
        components |= {"anatomy_controller": anatomy_controller, "segmenter": segmenter}
        for component in components.values():
            if isinstance(component, torch.nn.Module):
                component.float().eval()
        return cls(**components)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return int(self.unet.config.sample_size) * downsampling(self.vae)

    def default_blend(self, mode: Mode) -> AnatomyBlend:
        """Return how an organ mask acts in that mode where a call does not say; see ``xreal.inputs.default_blend``.

        Without an Anatomy Controller, the adapter acts in either mode.
        """
        adapted = self.anatomy_adapter is not None
        return default_blend("regional" if adapted and self.anatomy_controller is None else mode, adapted)

    @torch.inference_mode()
    def __call__(
        self,
        organ_mask: np.ndarray | None = None,
        lesions: Sequence[Lesion] | Sequence[Sequence[Lesion]] = (),
        seeds: Sequence[int] = (0,),
        *,
        prompt: str = "",
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
        callback_on_step_end: StepCallback | None = None,
    ) -> XRealPipelineOutput:
        """Draw one chest X-ray per seed.

        Args:
            organ_mask: ``Organ`` labels, (H, W) for all images or (B, H, W); any size, padded to a square and brought
                to the model's by nearest neighbour. None: the model chooses the anatomy (plain text-to-image).
            lesions: of all images, or one sequence per image; masks of the organ mask's size.
            seeds: one per image, ≥ 0. Image i depends on its own seed alone, not on the batch.
            prompt: of the X-ray beyond its lesions, and of its twin; "" as in the paper. ``{findings}`` in it stands for
                the image's own findings: all of it then looks like the X-ray of such a patient, the twin too.
            quality: "draft", "default" or "reference": mode, solver, steps and η together, each of which can be
                given instead. "reference" is the authors' procedure.
            mode: "regional" draws the X-ray and its healthy twin in one trajectory; "two-pass" is the authors'
                procedure: a healthy X-ray first, the lesions into it afterwards.
            solver: "ddim", "dpm++", "unipc" or "euler"; default "dpm++", for two-pass "ddim".
            steps: of the solver, for each pass; default 10, draft 4, for two-pass 100.
            guidance: w; each lesion's own strength multiplies it. Default 6 where the adapter knows the places of
                findings, else 9; for two-pass the paper's 7.
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
            callback_on_step_end: called after each step as in diffusers: pipeline, number of the step (two-pass counts
                on), timestep, ``{"latents": ...}``: (B, c, h, w), with lesions in regional mode (2B, c, h, w), healthy
                twins first. It may return such a dictionary, with other latents, and raise to stop.

        Raises:
            InputError: a setting is out of range; MaskError, FindingError: a mask or a lesion is not usable.
            ModelError: the model has no Anatomy Controller but an organ mask was given.
        """
        # 1. Check everything before anything is computed.
        use = check_settings(seeds, quality, mode, solver, steps, guidance, eta, lesion_start, lesion_until, texture)
        two_pass, steps, eta = use.mode == "two-pass", use.steps, use.eta
        seeds = [int(seed) for seed in seeds]
        blend = anatomy or self.default_blend(use.mode)
        if self.anatomy_variation is None:
            blend = replace(blend, variety=0.0)
        organs = self._check_organs(organ_mask, len(seeds))  # (B, H, W) or None
        per_image = lesions_per_image(lesions, organ_mask, len(seeds), self.image_size)
        placed = self._tells_places(blend.adapter) and any(per_image)
        if self.anatomy_adapter is None or (organs is None and not placed):
            blend = replace(blend, adapter=0.0)
        guidance = self._guidance(use, guidance, blend.adapter)
        engine = build_solver(use.solver, self.scheduler, steps)
        device = device_of(self.unet)

        # 2. Prompts, each encoded once: the X-ray's own, and one per finding.
        vae, controller = self.network("vae", quality), self.network("anatomy_controller", quality)
        findings = self._encode_lesions(per_image, guidance, binary=two_pass)
        denoise = self._denoiser(prompts_per_image(prompt, per_image), organs, findings, blend.adapter, quality)

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
        walk = self._walk(engine, denoise, noise, eta, callback_on_step_end)
        healthy_latents, latents = walk.side_by_side(keep, together, start, until)
        healthy = decode_pixels(vae, healthy_latents)  # (B, 1 or 3, H, W)
        if findings is None:
            images = healthy
        elif not two_pass:
            images = decode_pixels(vae, latents)
        else:
            noise = StepNoise(seeds, latent_shape, device, fixed=not renew, trajectory=1)
            reference = encode_image(vae, healthy, noise.reference_generators)
            engine = build_solver(use.solver, self.scheduler, steps)
            latents = self._walk(engine, denoise, noise, eta, callback_on_step_end, steps).inpaint(reference, findings)
            images = decode_pixels(vae, latents)
            without = torch.tensor([not own for own in per_image], device=device)
            images[without] = healthy[without]  # nothing to draw: spared the autoencoder's round trip

        # 5. Texture, the same of both; composite, and hand over.
        texture = 0.0 if self.texture is None else use.texture
        if texture > 0:
            tracks = [healthy] if findings is None else [healthy, images]
            tracks = [track.mean(1, keepdim=True) for track in tracks]
            film = self.texture.film(tracks[0], texture_generators(seeds))
            tracks = [self.texture(track, film, texture) for track in tracks]
            healthy, images = tracks[0], tracks[-1]
        masks = [np.array([lesion.mask for lesion in own], np.float32) for own in per_image]
        pictures, twins = images.mean(1).cpu().numpy(), healthy.mean(1).cpu().numpy()  # grey
        if exact and findings is not None:
            pictures = np.stack([_composite(*triple) for triple in zip(pictures, twins, per_image, strict=True)])
        return XRealPipelineOutput(
            images=pictures,
            healthy=None if findings is None else twins,
            priors=None if priors is None else priors.mean(1).cpu().numpy(),
            organ_masks=None if organs is None else organs.numpy(),
            lesion_masks=masks,
            seeds=seeds,
            settings={
                "mode": use.mode,
                "solver": use.solver,
                "steps": steps,
                "guidance": guidance,
                "eta": eta,
                "prompt": prompt,
                "lesion_start": lesion_start,
                "lesion_until": lesion_until,
                "exact": exact,
                "texture": texture,
                "anatomy": asdict(blend),
                **asdict(self.backend(quality)),
            },
        )

    @property
    def _latent_size(self) -> tuple[int, int]:
        side = self.image_size // downsampling(self.vae)
        return side, side

    def _walk(
        self,
        solver: Any,
        denoise: Denoiser,
        noise: StepNoise,
        eta: float,
        callback: StepCallback | None,
        first: int = 0,
    ) -> Walk:
        """Bind a trajectory to this pipeline's progress bar and its caller's callback; ``first`` is its first step."""

        def end_step(index: int, timestep: Tensor, latents: Tensor) -> Tensor:
            changed = None if callback is None else callback(self, first + index, timestep, {"latents": latents})
            return (changed or {}).get("latents", latents)

        return Walk(solver, denoise, noise, eta, self.progress_bar, end_step)

    def _denoiser(
        self,
        prompts: list[str],
        organs: Tensor | None,
        findings: LatentLesions | None,
        adapter: float,
        quality: Quality = "default",
    ) -> Denoiser:
        """Bind the U-Net to B prompts and, where the model is told of them, to organs (B, H, W) and lesions."""
        device, batch = device_of(self.unet), len(prompts)
        distinct = list(dict.fromkeys(prompts))
        embeds = encode_prompts(self.tokenizer, self.text_encoder, distinct, device)
        embeds = embeds[[distinct.index(prompt) for prompt in prompts]]  # (B, L, d)
        network: Any = self.network("unet", quality)
        if self.controlnet is not None:
            network = ControlledUNet(self.unet, self.controlnet)
        if organs is not None and sees_organs(network):
            return Denoiser(network, embeds, organs.to(device))
        if adapter == 0 or (organs is None and not self._tells_places(adapter)):
            return Denoiser(network, embeds)
        if organs is None:
            organs = torch.zeros(batch, self.image_size, self.image_size, dtype=torch.uint8)
        organs, lesions = organs.to(device), None
        if findings is not None:
            lesions = torch.cat([findings.masks.new_zeros(batch, *findings.masks.shape[1:]), findings.places])
            organs = torch.cat([organs, organs[findings.owners]])
        told = adapter_features(self.network("anatomy_adapter", quality), self.unet, organs, lesions)
        features = [adapter * one for one in told]
        return Denoiser(network, embeds, None, [one[:batch] for one in features], [one[batch:] for one in features])

    def _tells_places(self, adapter: float) -> bool:
        """Return whether the U-Net is told where findings are, by an adapter of that strength."""
        return adapter > 0 and self.anatomy_adapter is not None and knows_lesions(self.anatomy_adapter)

    def _guidance(self, use: Settings, asked: float | None, adapter: float) -> float:
        """Return what is asked for or, where nothing is, less if the U-Net is told places than if by prompts alone."""
        placed = use.mode == "regional" and self._tells_places(adapter)
        return PLACED_GUIDANCE if asked is None and placed else use.guidance

    def _encode_lesions(self, per_image: list[list[Lesion]], guidance: float, binary: bool) -> LatentLesions | None:
        wanted = [[(one.finding, one.mask, guidance * one.strength) for one in own] for own in per_image]
        return self._encode_findings(wanted, binary)

    def _encode_findings(
        self, per_image: list[list[tuple[Finding, np.ndarray, float]]], binary: bool
    ) -> LatentLesions | None:
        """Encode per image its findings, each with mask (S, S) and guidance; ``binary``: masks as the authors' are."""
        wanted = [one for own in per_image for one in own]
        if not wanted:
            return None
        device = device_of(self.unet)
        prompts = sorted({finding.value for finding, _, _ in wanted})
        embeds = encode_prompts(self.tokenizer, self.text_encoder, prompts, device)
        radius = 0.0 if binary else FADE_LATENTS * downsampling(self.vae)
        faded = [mask if finding is Finding.NO_FINDING else fade(mask, radius) for finding, mask, _ in wanted]
        masks, weights = (
            lesions_to_latents(torch.from_numpy(np.stack(some)).to(device), self._latent_size, binary)
            for some in ([mask for _, mask, _ in wanted], faded)
        )
        scales = torch.tensor([scale for _, _, scale in wanted], device=device)
        return LatentLesions(
            embeds=embeds[[prompts.index(finding.value) for finding, _, _ in wanted]],
            masks=masks,
            weights=weights,
            scales=scales,
            owners=torch.tensor([i for i, own in enumerate(per_image) for _ in own], device=device),
            present=torch.tensor([float(finding is not Finding.NO_FINDING) for finding, _, _ in wanted], device=device),
        )

    @property
    def takes_organs(self) -> bool:
        """Whether the model draws from organ masks, in any of the ways that there are."""
        steered = (self.anatomy_controller, self.anatomy_adapter, self.controlnet) != (None, None, None)
        return steered or sees_organs(self.unet)

    def _check_organs(self, organ_mask: np.ndarray | None, batch: int) -> Tensor | None:
        if organ_mask is None:
            return None
        if not self.takes_organs:
            raise ModelError("this model has no anatomy_controller; train one with `xreal train anatomy`")
        stack = organ_mask if np.ndim(organ_mask) == 3 else [organ_mask]
        if len(stack) not in (1, batch):
            raise InputError(f"{len(stack)} organ masks for {batch} seeds; give one mask, or one per seed")
        masks = [resize_organ_mask(check_organ_mask(mask), self.image_size) for mask in stack]
        return torch.from_numpy(np.stack(masks * batch if len(masks) == 1 else masks))


def _composite(image: np.ndarray, healthy: np.ndarray, lesions: list[Lesion]) -> np.ndarray:
    """Take pixels beyond the feathered lesions from the healthy twin, bit for bit."""
    if not lesions:
        return healthy
    weight = np.max([feather(lesion.mask, FEATHER_PIXELS) for lesion in lesions], axis=0)
    return np.where(weight > 0, healthy + weight * (image - healthy), healthy)
