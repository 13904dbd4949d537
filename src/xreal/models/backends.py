"""What computes the networks: eager PyTorch in float32, PyTorch in bfloat16, or OpenVINO; chosen by name or by "auto".

A network that is not eager stands in for the original: the same configuration, the same calls, float32 in and out. What
is small or must not vary stays as it is: the text encoder, the solvers, and the number format of pixels and segmenter.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from xreal.errors import InputError, ModelError
from xreal.models.autoencoder import PatchAutoencoderKL
from xreal.models.organs import sees_organs
from xreal.models.precision import default_device, device_of, fast_dtype

__all__ = ["BACKENDS", "EAGER", "Backend", "Networks", "choose_backend", "choose_device"]

BACKENDS = ("auto", "torch", "torch-bf16", "openvino")

# In bfloat16 bright pixels would have steps of a grey level, which are seen as a grid of the decoder's patches.
_PIXELS = {("vae", "decoder"), ("vae", "pixels")}

_REMEMBERED = 64  # prompts: 0.8 MB of the bundled model's, 15 MB of Stable Diffusion's

Run = Callable[..., Any]  # one tensor, or a tuple of them


@dataclass(frozen=True)
class Backend:
    """What computes, and in which numbers.

    Attributes:
        backend: one of ``BACKENDS`` but "auto".
        precision: "float32" or "bfloat16".
    """

    backend: str
    precision: str

    @property
    def eager(self) -> bool:
        """Whether the networks compute as they are."""
        return self.backend == "torch"


EAGER = Backend("torch", "float32")


def choose_backend(name: str, device: torch.device, quality: str = "default") -> Backend:
    """Return the backend of that name; for "auto" the fastest that is installed and that the processor supports.

    bfloat16 is taken only where the processor has instructions for it. At the quality "reference", and on a GPU, "auto"
    is eager float32. The environment variable ``XREAL_BACKEND`` says what "auto" means elsewhere, for a whole session.

    Raises:
        InputError: an unknown name. ModelError: what it needs is not installed, or not for that device.
    """
    if name == "auto" and quality == "reference":
        return EAGER
    if name == "auto":
        name = os.environ.get("XREAL_BACKEND") or "auto"
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; expected one of {', '.join(BACKENDS)}")
    has_bfloat16 = fast_dtype(device) == torch.bfloat16
    has_openvino = device.type == "cpu" and find_spec("openvino") is not None
    if name == "auto":
        name = "openvino" if has_openvino else "torch-bf16" if has_bfloat16 and device.type == "cpu" else "torch"
    if name == "torch":
        return EAGER
    if name == "torch-bf16":
        if not has_bfloat16:
            raise ModelError(f"backend torch-bf16: this {device.type} has no bfloat16 instructions; take auto or torch")
        return Backend(name, "bfloat16")
    if not has_openvino:
        wanted = 'install it: pip install "xreal-cxr[fast]"' if device.type == "cpu" else f"not on {device.type}"
        raise ModelError(f"backend openvino computes on a processor with OpenVINO; {wanted}")
    return Backend(name, "bfloat16" if has_bfloat16 else "float32")


def choose_device(backend: str, device: str = "auto") -> torch.device:
    """Return where the networks of a backend are placed.

    Args:
        backend: one of ``BACKENDS``.
        device: as PyTorch names it; "auto": a GPU where there is one that the backend can use.

    Raises:
        InputError: PyTorch knows no such device. ModelError: there is no GPU.
    """
    if device == "auto":
        named = os.environ.get("XREAL_BACKEND") if backend == "auto" else backend
        return torch.device("cpu") if named == "openvino" else default_device()
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}; expected auto, cpu or cuda") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device}: PyTorch sees no GPU; take auto or cpu")
    return place


class Networks:
    """The networks of a pipeline under one backend, each made when it is first asked for.

    They are made from the weights as they are then. A component that is replaced, or moved to another device, is made
    anew; one whose weights are changed in place is not.

    Args:
        name: one of ``BACKENDS``. With "auto", a network that cannot be converted stays eager, with a warning.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._made: dict[tuple[str, torch.device], tuple[Any, Any]] = {}

    def get(self, kind: str, network: Any) -> Any:
        """Return what computes a network.

        Args:
            kind: "unet", "vae", "anatomy_controller", "anatomy_adapter", "text_encoder", "detail" or "segmenter".
            network: the original.

        Raises:
            ModelError: the backend cannot be used, or cannot hold this network.
        """
        if network is None or (backend := choose_backend(self.name, device := device_of(network))).eager:
            return network
        if kind == "segmenter":  # it judges: in float32 everywhere
            backend = Backend(backend.backend, "float32")
        original, made = self._made.get((kind, device), (None, None))
        if original is not network:
            made = _stand_in(kind, network, self._compiler(backend, kind))
            self._made[kind, device] = network, made
        return made

    def _compiler(self, backend: Backend, kind: str) -> Callable[[str, nn.Module, tuple[Tensor, ...]], Run]:
        """Return a function piece, module, example inputs -> what computes it."""

        def compiled(piece: str, module: nn.Module, example: tuple[Tensor, ...]) -> Run:
            precision = "float32" if (kind, piece) in _PIXELS else backend.precision
            try:
                if backend.backend == "torch-bf16":
                    return _bfloat16(module) if precision == "bfloat16" else module
                from xreal.models.converted import convert

                return convert(f"{kind} {piece}", module, example, precision)
            except Exception as error:  # tracers and converters have errors of their own
                if self.name != "auto":
                    raise ModelError(
                        f"backend {backend.backend} cannot take this {kind} ({error}); take torch"
                    ) from error
                logging.getLogger(__name__).warning("%s stays in eager float32: %s", kind, error)
                return module

        return compiled


class _Predict(nn.Module):
    """U-Net that is given the timestep as its sine waves, (1, w): in bfloat16, 501 is 502, and its waves are others."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, waves: Tensor, embeds: Tensor, *added: Tensor) -> Tensor:
        self.unet.get_time_embed = lambda sample, timestep: waves.expand(sample.shape[0], -1)
        adapted = {"down_intrablock_additional_residuals": list(added)} if added else {}
        try:
            prediction: Tensor = self.unet(sample, 0, embeds, return_dict=False, **adapted)[0]
        finally:
            del self.unet.get_time_embed
        return prediction


class _Encode(nn.Module):
    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, image: Tensor) -> Tensor:
        moments: Tensor = self.autoencoder._encode(image)
        return moments


class _Decode(nn.Module):
    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        image: Tensor = self.autoencoder._decode(latents, return_dict=False)[0]
        return image


class _Correct(nn.Module):
    def __init__(self, autoencoder: PatchAutoencoderKL) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.correct(latents)


class _Paint(nn.Module):
    def __init__(self, autoencoder: PatchAutoencoderKL) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor, corrections: Tensor) -> Tensor:
        return self.autoencoder.paint(latents, corrections)


class _StandIn:
    """Has the configuration of the original, float32 weights by its own account, and computes by other means."""

    dtype = torch.float32

    def __init__(self, network: Any) -> None:
        self.config, self.device = network.config, device_of(network)


class _UNet(_StandIn):
    """Made when it is first used: as it is, or with what an adapter adds to each level of its encoder."""

    def __init__(self, unet: Any, compiled: Any) -> None:
        super().__init__(unet)
        self._unet, self._compiled, self._waves = unet, compiled, unet.get_time_embed
        self._runs: dict[bool, Run] = {}

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        embeds: Tensor,
        down_intrablock_additional_residuals: Sequence[Tensor] = (),
    ) -> UNet2DConditionOutput:
        added = down_intrablock_additional_residuals
        waves, adapted = self._waves(sample[:1], timestep), len(added) > 0
        if adapted not in self._runs:
            rows = [one.new_zeros(2, *one.shape[1:]) for one in (sample, *added)]
            example = (rows[0], waves, embeds.new_zeros(2, *embeds.shape[1:]), *rows[1:])
            name = "prediction with adapter" if adapted else "prediction"
            self._runs[adapted] = self._compiled(name, _Predict(self._unet), example)
        return UNet2DConditionOutput(sample=self._runs[adapted](sample, waves, embeds, *added))


class _Autoencoder(_StandIn):
    """Encoder and decoder, each made when it is first used."""

    def __init__(self, network: Any, compiled: Any) -> None:
        super().__init__(network)
        self._network, self._compiled = network, compiled
        self._encode: Run | None = None
        self._decode: Run | None = None

    def encode(self, image: Tensor) -> AutoencoderKLOutput:
        if self._encode is None:
            self._encode = self._compiled("encoder", _Encode(self._network), (image.new_zeros(2, *image.shape[1:]),))
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(self._encode(image)))

    def decode(self, latents: Tensor) -> DecoderOutput:
        if self._decode is None:
            self._decode = self._decoder(latents.new_zeros(2, *latents.shape[1:]))
        return DecoderOutput(sample=self._decode(latents))

    def _decoder(self, latents: Tensor) -> Run:
        """Make the decoder whole; or the costly convolutions, which only correct pixels, apart from what draws them."""
        network = self._network
        if not isinstance(network, PatchAutoencoderKL):
            return self._compiled("decoder", _Decode(network), (latents,))
        correct = self._compiled("corrections", _Correct(network), (latents,))
        paint = self._compiled("pixels", _Paint(network), (latents, network.correct(latents)))
        return lambda latents: paint(latents, correct(latents))


class _Features(nn.Module):
    def __init__(self, adapter: Any) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.adapter(planes))


class _Adapter(_StandIn):
    def __init__(self, adapter: Any, compiled: Any) -> None:
        super().__init__(adapter)
        self._features, self._compiled = _Features(adapter), compiled
        self._run: Run | None = None

    def __call__(self, planes: Tensor) -> Sequence[Tensor]:
        if self._run is None:
            self._run = self._compiled("features", self._features, (planes.new_zeros(2, *planes.shape[1:]),))
        features: Sequence[Tensor] = self._run(planes)
        return features


class _TextEncoder(_StandIn):
    """The original, which remembers what it has encoded: the same few prompts come with every image.

    Each is encoded alone, so that its embedding does not depend on those beside it.
    """

    def __init__(self, text_encoder: Any, compiled: Any) -> None:
        super().__init__(text_encoder)
        self._text_encoder = text_encoder
        self._known: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, ids: Tensor, return_dict: bool = False, **masks: Tensor) -> tuple[Tensor]:
        keys = [tuple(row) for row in ids.tolist()]
        embeds = {}
        for i, key in enumerate(keys):
            if key not in self._known:
                given = {name: mask[i : i + 1] for name, mask in masks.items()}
                self._known[key] = self._text_encoder(ids[i : i + 1], return_dict=False, **given)[0][0]
            embeds[key] = self._known[key]
            while len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]
        return (torch.stack([embeds[key] for key in keys]),)


class _Detail(_StandIn):
    def __init__(self, detail: Any, compiled: Any) -> None:
        super().__init__(detail)
        self._detail, self._compiled = detail, compiled
        self._run: Run | None = None

    def __call__(self, images: Tensor) -> Tensor:
        if self._run is None:
            self._run = self._compiled("lines", self._detail, (torch.rand(2, *images.shape[1:]),))
        added: Tensor = self._run(images)
        return added


class _Segmenter(_StandIn):
    def __init__(self, segmenter: Any, compiled: Any) -> None:
        super().__init__(segmenter)
        side = int(segmenter.config.sample_size)
        self._run = compiled("labels", segmenter, (torch.rand(2, 1, side, side),))

    def __call__(self, image: Tensor) -> Tensor:
        labels: Tensor = self._run(image)
        return labels


def _stand_in(kind: str, network: Any, compiled: Any) -> Any:
    if kind == "unet":
        return network if sees_organs(network) else _UNet(network, compiled)  # the paper's baselines stay as they are
    others = {
        "anatomy_adapter": _Adapter,
        "detail": _Detail,
        "segmenter": _Segmenter,
        "text_encoder": _TextEncoder,
    }
    return others.get(kind, _Autoencoder)(network, compiled)


def _bfloat16(module: nn.Module) -> Run:
    """Copy a network in bfloat16, channels last: what oneDNN multiplies fastest."""
    network: Any = copy.deepcopy(module).to(torch.bfloat16, memory_format=torch.channels_last)

    def run(*inputs: Tensor) -> Any:
        output = network(*(one.bfloat16() for one in inputs))
        return tuple(one.float() for one in output) if isinstance(output, tuple) else output.float()

    return run
