"""What every way of drawing needs: the model's networks, and the U-Net told of prompts, organs and findings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from xreal.control.anatomy import AnatomyBlend
from xreal.control.blending import StepNoise
from xreal.control.denoiser import Denoiser
from xreal.control.pathology import LatentLesions, lesions_to_latents
from xreal.control.walk import Walk
from xreal.errors import InputError, ModelError
from xreal.inputs import (
    PLACED_GUIDANCE,
    UNPLACED_GUIDANCE,
    Mode,
    Quality,
    Settings,
    StepCallback,
    default_blend,
)
from xreal.masks.areas import fade
from xreal.masks.organs import check_organ_mask, resize_organ_mask
from xreal.models.adopt import adopt
from xreal.models.autoencoder import downsampling
from xreal.models.backends import Backend, Networks, choose_backend, choose_device
from xreal.models.detail import with_lines
from xreal.models.folder import load_components, resolve_folder
from xreal.models.organs import ControlledUNet, adapter_features, knows_lesions, sees_organs
from xreal.models.precision import device_of
from xreal.models.prompts import encode_prompts, misread, prompt_length
from xreal.vocabulary import Finding

__all__ = ["SteeredPipeline"]

FADE_LATENTS = 0.75  # over which findings fade inside their lesion: a box drawn alike up to its edge is seen as a box


class SteeredPipeline(DiffusionPipeline):
    """A latent diffusion model and what steers it; ``XRealPipeline`` draws and edits with it."""

    _optional_components = [  # noqa: RUF012 (diffusers' own way)
        "anatomy_adapter",
        "anatomy_controller",
        "anatomy_variation",
        "controlnet",
        "detail",
        "segmenter",
        "signal_leak",
        "texture",
    ]

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
        detail: Any = None,
        texture: Any = None,
        signal_leak: Any = None,
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
            detail=detail,
            texture=texture,
            signal_leak=signal_leak,
        )
        self.use_backend("torch")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, backend: str = "auto", device: str = "cpu") -> Self:
        """Open a bundled model by name, a model folder, or the folder of a Stable Diffusion 1.x, 2.x or LDM pipeline.

        Args:
            name_or_path: name or folder.
            backend: see ``use_backend``.
            device: where the networks lie, as PyTorch names it; or "auto", a GPU where there is one that the backend
                can use.

        Raises:
            ModelError: no such folder, a component is missing, truncated, of another shape or of a kind that needs
                more than a prompt; or the backend or the device cannot be used. InputError: unknown names of these.
        """
        place = choose_device(backend, device)
        choose_backend(backend, place)  # before anything is opened
        components = load_components(resolve_folder(name_or_path), cls._optional_components)
        pipeline = cls(**components | adopt(components))
        return (pipeline if place.type == "cpu" else pipeline.to(place)).use_backend(backend)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the networks to a device, as diffusers' pipelines do; their weights stay in float32.

        Raises:
            ModelError: another number format; ``use_backend`` says what computes in one.
        """
        for wanted in (*args, *kwargs.values()):
            if isinstance(wanted, torch.dtype) and wanted != torch.float32:
                raise ModelError(
                    f'weights stay in float32, not {wanted}; use_backend("torch-bf16") computes in bfloat16'
                )
        moved: Self = super().to(*args, **kwargs)
        return moved

    def use_backend(self, name: str = "auto") -> Self:
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
    def from_pipe(cls, pipe: Any, anatomy_controller: Any = None, segmenter: Any = None) -> Self:
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

    @property
    def takes_organs(self) -> bool:
        """Whether the model draws from organ masks, in any of the ways that there are."""
        steered = (self.anatomy_controller, self.anatomy_adapter, self.controlnet) != (None, None, None)
        return steered or sees_organs(self.unet)

    def default_blend(self, mode: Mode) -> AnatomyBlend:
        """Return how an organ mask acts in that mode where a call does not say; see ``xreal.inputs.default_blend``.

        Without an Anatomy Controller, the adapter acts in either mode.
        """
        adapted = self.anatomy_adapter is not None
        return default_blend("regional" if adapted and self.anatomy_controller is None else mode, adapted)

    @property
    def _latent_size(self) -> tuple[int, int]:
        side = self.image_size // downsampling(self.vae)
        return side, side

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

    def _walk(
        self,
        solver: Any,
        denoise: Denoiser,
        noise: StepNoise,
        eta: float,
        callback: StepCallback | None,
        first: int = 0,
        leak: Tensor | None = None,
        noise_scale: Tensor | None = None,
    ) -> Walk:
        """Bind a trajectory to this pipeline's progress bar and its caller's callback; ``first`` is its first step."""

        def end_step(index: int, timestep: Tensor, latents: Tensor) -> Tensor:
            changed = None if callback is None else callback(self, first + index, timestep, {"latents": latents})
            return (changed or {}).get("latents", latents)

        return Walk(solver, denoise, noise, eta, self.progress_bar, end_step, leak, noise_scale)

    @torch.inference_mode()
    def with_detail(
        self, tracks: Sequence[Tensor], strength: float = 1.0, quality: Quality = "default"
    ) -> list[Tensor]:
        """Add the lines that latents do not tell, where the model has learnt them.

        Args:
            tracks: decoded X-rays, (B, 1, H, W) in [0, 1], healthy twins first: all get the lines of the first.
            strength: 1 as learnt, 0 none.
            quality: says what computes the network.
        """
        if self.detail is None:
            return list(tracks)
        return with_lines(self.network("detail", quality), tracks, downsampling(self.vae), strength)

    def _embed(self, prompts: Sequence[str], quality: Quality = "default") -> dict[str, Tensor]:
        """Encode all distinct prompts in one call: prompt -> (L, d). Warns of what is not read as it was meant."""
        distinct, encoder = list(dict.fromkeys(prompts)), self.network("text_encoder", quality)
        for prompt in distinct:
            if said := misread(self.tokenizer, prompt, prompt_length(self.tokenizer, encoder)):
                warnings.warn(said, UserWarning, stacklevel=3)
        embeds = encode_prompts(self.tokenizer, encoder, distinct, device_of(self.unet))
        return dict(zip(distinct, embeds, strict=True))

    def _denoiser(
        self,
        embeds: Tensor,
        organs: Tensor | None,
        findings: LatentLesions | None,
        adapter: float,
        quality: Quality = "default",
    ) -> Denoiser:
        """Bind the U-Net to prompts (B, L, d) and, where it is told of them, to organs (B, H, W) and lesions.

        ``adapter`` is its strength; 0 where there is none, or neither organs nor lesions that it knows.
        """
        device, batch = device_of(self.unet), len(embeds)
        network: Any = self.network("unet", quality)
        if self.controlnet is not None:
            network = ControlledUNet(self.unet, self.controlnet)
        if organs is not None and sees_organs(network):
            return Denoiser(network, embeds, organs.to(device))
        if adapter == 0:
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

    @staticmethod
    def _guidance(use: Settings, placed: bool) -> float:
        """Return what is asked for or, where nothing is, less if the U-Net is told places than if by prompts alone."""
        if use.guidance is not None:
            return use.guidance
        return PLACED_GUIDANCE if placed else UNPLACED_GUIDANCE

    def _fade(self, mask: np.ndarray) -> np.ndarray:
        return fade(mask, FADE_LATENTS * downsampling(self.vae))

    def _place_findings(
        self,
        per_image: list[list[tuple[Finding, np.ndarray, np.ndarray, float]]],
        embeds: dict[str, Tensor],
        binary: bool,
    ) -> LatentLesions | None:
        """Bring per image its findings to the latent grid.

        Args:
            per_image: finding, mask (S, S), the mask faded, and guidance of each.
            embeds: of ``_embed``, the findings' names among them.
            binary: masks as the authors' are.
        """
        wanted = [one for own in per_image for one in own]
        if not wanted:
            return None
        device = device_of(self.unet)
        acting = [mask if binary or finding is Finding.NO_FINDING else faded for finding, mask, faded, _ in wanted]
        masks, weights = (
            lesions_to_latents(torch.from_numpy(np.stack(some)).to(device), self._latent_size, binary)
            for some in ([mask for _, mask, _, _ in wanted], acting)
        )
        scales = torch.tensor([scale for *_, scale in wanted], device=device)
        return LatentLesions(
            embeds=torch.stack([embeds[finding.value] for finding, *_ in wanted]),
            masks=masks,
            weights=weights,
            scales=scales,
            owners=torch.tensor([i for i, own in enumerate(per_image) for _ in own], device=device),
            present=torch.tensor([float(finding is not Finding.NO_FINDING) for finding, *_ in wanted], device=device),
        )
