"""The rows of the card: what a model is asked to draw, drawn to disk so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xreal.control.blending import texture_generators
from xreal.errors import InputError, OutputError
from xreal.evaluation.cases import Cases, joined, read_cases, write_case
from xreal.evaluation.control import sample_lung_boxes
from xreal.evaluation.options import ROWS, Options
from xreal.images import through_jpeg
from xreal.inputs import default_blend
from xreal.masks.lesions import Lesion
from xreal.models.autoencoder import decode_latents, encode_image
from xreal.models.folder import resolve_folder, weights_hash
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding, Organ, prompt_from_findings

__all__ = [
    "REAL",
    "RECONSTRUCTED",
    "REGIONAL",
    "REQUESTED",
    "SHUFFLED",
    "Row",
    "Track",
    "as_stored",
    "ask",
    "draw_row",
    "like_real",
    "model_rows",
    "reconstruct",
    "redraw",
    "shuffle_masks",
    "with_lungs",
    "with_twins",
]

REAL, RECONSTRUCTED, REGIONAL, PRIOR = "real vs real", "reconstructed", "regional", "prior instead of adapter"
PROMPTED, TWO_PASS, TEXT_ONLY, SHUFFLED = "finding as prompt", "two-pass", "without organ mask", "shuffled masks"

# Findings that are asked for in turn: those with at least ten validation images in the data that the judges know.
REQUESTED = (
    Finding.PNEUMONIA,
    Finding.INFILTRATION,
    Finding.ATELECTASIS,
    Finding.EDEMA,
    Finding.PLEURAL_EFFUSION,
)

# As they are asked for.
_NAMES = dict(zip((REGIONAL, PROMPTED, PRIOR, TWO_PASS, TEXT_ONLY), ROWS, strict=True))

Track = Callable[[Sequence[int], str], Iterable[int]]
_Plan = tuple[Cases, bool, dict[str, Any]]  # requests, whether masks are given, settings of the pipeline


@dataclass(frozen=True)
class Row:
    """One row of the card.

    Attributes:
        cases: images and what was asked of them.
        mixed: (N, H, W), images mixed as the real set is, with finding or without, and stored as it is; see
            ``like_real`` and ``as_stored``.
        drawn: by what is judged; else real, or reconstructed from real.
        mask_owners: real images whose organ masks were asked for, (M, H, W), or None.
    """

    cases: Cases
    mixed: np.ndarray
    drawn: bool = True
    mask_owners: np.ndarray | None = None


def ask(real: Cases, n: int, seed: int = 0) -> tuple[Cases, Cases]:
    """Make n requests: the organ mask of a real X-ray, one of ``REQUESTED`` in turn, and a box for it in the lungs.

    Args:
        real: X-rays with organ masks; the first n that have both lungs give theirs.
        n: how many.
        seed: of the boxes.

    Returns:
        The requests, whose ``images`` are the real X-rays that own the masks and whose ``healthy`` are NaN; and the
        owners, the same X-rays with their own labels.

    Raises:
        InputError: fewer than n masks.
    """
    usable = with_lungs(real)
    if len(usable) < n:
        raise InputError(
            f"n = {n}, but only {len(usable)} real X-rays have a mask of both lungs; "
            "give a smaller --n, or prepare the data with --segmenter"
        )
    owners = real.take(usable[:n])
    requests = replace(
        owners,
        image_ids=tuple(f"{i:04d}" for i in range(n)),
        findings=tuple((REQUESTED[i % len(REQUESTED)],) for i in range(n)),
        lesion_masks=sample_lung_boxes(owners.organ_masks, seed),
    )
    return requests, owners


def with_lungs(cases: Cases) -> list[int]:
    """Return the indices of those whose organ mask has both lungs."""
    lungs = (Organ.LEFT_LUNG, Organ.RIGHT_LUNG)
    return [i for i, mask in enumerate(cases.organ_masks) if all((mask == organ).any() for organ in lungs)]


def draw_row(
    pipeline: XRealPipeline,
    requests: Cases,
    folder: Path,
    about: dict[str, Any],
    seed: int,
    track: Track,
    use_masks: bool = True,
    batch_size: int = 8,
    prompts: Sequence[str] | None = None,
    **settings: Any,
) -> Cases:
    """Draw every request and its healthy twin, or read those that an earlier run has drawn.

    Args:
        pipeline: the model.
        requests: see ``ask``; request i takes seed + i, and no lesion where its mask is empty.
        folder: for the pictures; see ``write_case``.
        about: what else the images depend on, such as the weights' hash; kept beside each.
        seed: of the first image.
        track: shows progress over the batches.
        use_masks: give the organ masks to the model; without, it chooses the anatomy.
        batch_size: images drawn side by side.
        prompts: one per request; None: that of the settings, if any.
        settings: further arguments of the pipeline.

    Raises:
        OutputError: the folder holds images that were drawn otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {**about, "settings": {key: str(value) for key, value in settings.items()}, "use_masks": use_masks}
    record["computed"] = asdict(pipeline.backend(settings.get("quality", "default")))
    own: list[dict[str, Any]] = [{"seed": seed + i, **_asked(requests, i)} for i in range(len(requests))]
    if prompts is not None:
        own = [about | {"prompt": prompt} for about, prompt in zip(own, prompts, strict=True)]
    missing = [i for i, about in enumerate(own) if not _drawn(folder / f"{requests.image_ids[i]}.json", record | about)]
    for start in track(range(0, len(missing), batch_size), folder.name):
        indices = missing[start : start + batch_size]
        part = requests.take(indices)
        asked = zip(part.findings, part.lesion_masks, strict=True)
        lesions = [[Lesion(findings[0], mask)] if mask.any() else [] for findings, mask in asked]
        masks = part.organ_masks if use_masks else None
        told = {} if prompts is None else {"prompt": [prompts[i] for i in indices]}
        output = pipeline(masks, lesions, [seed + i for i in indices], **settings, **told)
        healthy = np.full_like(output.images, np.nan) if output.healthy is None else output.healthy
        finished = replace(part, images=output.images, healthy=healthy)
        for row, i in enumerate(indices):
            write_case(folder, finished, row, record | own[i])
    names = set(requests.image_ids)
    drawn = read_cases(folder, requests.images.shape[-1])
    return drawn.take([i for i, name in enumerate(drawn.image_ids) if name in names])


def _asked(requests: Cases, index: int) -> dict[str, Any]:
    """Tell one request from others: a hash of its masks, and its findings as ``write_case`` writes them."""
    masks = requests.organ_masks[index].tobytes() + requests.lesion_masks[index].tobytes()
    findings = [finding.value for finding in requests.findings[index]]
    return {"request": hashlib.sha256(masks).hexdigest()[:16], "findings": findings}


def _drawn(path: Path, record: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    stored = json.loads(path.read_text(encoding="utf-8"))
    if different := [key for key, value in record.items() if stored.get(key) != value]:
        raise OutputError(
            f"{path} was drawn with another {', '.join(different)}; give another --out, or delete {path.parent}"
        )
    return True


def like_real(drawn: Cases, owners: Cases) -> np.ndarray:
    """Mix what was drawn as the real set is mixed: with lesion where the mask's owner has a finding, else the twin.

    Returns:
        (N, H, W) float32.
    """
    sick = [any(finding is not Finding.NO_FINDING for finding in names) for names in owners.findings]
    lesion = np.array(sick)[:, None, None] | ~np.isfinite(drawn.healthy)
    return np.where(lesion, drawn.images, drawn.healthy)


def as_stored(images: np.ndarray, owners: Cases) -> np.ndarray:
    """Store images as the real X-rays that own their masks were stored, in JPEG files where they were.

    Else what tells drawn X-rays from real ones would be their files (arXiv 2403.17608).

    Args:
        images: (N, H, W) in [0, 1].
        owners: N real X-rays.

    Returns:
        (N, H, W) float32.
    """
    stored = [through_jpeg(one, steps) if steps else one for one, steps in zip(images, owners.jpeg_steps, strict=True)]
    return np.stack(stored).astype(np.float32)


def with_twins(drawn: Cases) -> Cases:
    """Return what was drawn and, as X-rays without finding, its healthy twins."""
    twins = drawn.take(np.flatnonzero(np.isfinite(drawn.healthy).all((1, 2))))
    return joined(drawn, replace(twins, images=twins.healthy, findings=((Finding.NO_FINDING,),) * len(twins)))


def redraw(options: Options, pipeline: XRealPipeline, real: Cases, finding: Finding, track: Track) -> Cases:
    """Draw real X-rays again, as other patients: what a classifier of one finding is to learn from.

    Each keeps its own organ mask, and has its own findings as prompt: findings come together as they do in patients,
    in hearts and lungs that go with them.

    Args:
        options: n with the finding and n without, seed and folder; images that lie there already are kept.
        pipeline: the model.
        real: X-rays with organ masks and findings; where there are fewer than n of a kind, they come again.
        finding: that half of them have.
        track: shows progress.

    Raises:
        InputError: none with the finding, or none without.
    """
    chosen: list[int] = []
    for wanted in (True, False):
        group = [i for i in with_lungs(real) if real.findings[i] and (finding in real.findings[i]) is wanted]
        if not group:
            raise InputError(f"no X-ray {'with' if wanted else 'without'} {finding.value} has a mask of both lungs")
        chosen += [group[i % len(group)] for i in range(options.n)]
    requests = replace(
        real.take(chosen),
        image_ids=tuple(f"{i:04d}" for i in range(len(chosen))),
        lesion_masks=np.zeros((len(chosen), *real.lesion_masks.shape[1:]), real.lesion_masks.dtype),
    )
    about = {"weights": weights_hash(resolve_folder(str(options.model)))}
    prompts = [prompt_from_findings(findings) for findings in requests.findings]
    return draw_row(
        pipeline,
        requests,
        options.out / "images" / "redrawn",
        about,
        options.seed,
        track,
        batch_size=options.batch_size,
        prompts=prompts,
    )


@torch.inference_mode()
def reconstruct(pipeline: XRealPipeline, images: np.ndarray) -> np.ndarray:
    """Send images (N, H, W) through the autoencoder, with detail and texture: the best that these latents can draw.

    Each keeps its own film: how films differ is what drawn X-rays lack, not real ones.
    """
    vae, texture = pipeline.vae, pipeline.texture
    parts = []
    for start in range(0, len(images), 8):
        part = torch.from_numpy(np.ascontiguousarray(images[start : start + 8]))[:, None].to(vae.device)
        seeds = list(range(start, start + len(part)))
        decoded = pipeline.with_detail([decode_latents(vae, encode_image(vae, part))])[0]
        if texture is not None:
            decoded = texture(decoded, texture.film(decoded, texture_generators(seeds), drawn=False))
        parts.append(decoded)
    return torch.cat(parts)[:, 0].cpu().numpy()


def shuffle_masks(cases: Cases) -> Cases:
    """Give every image its neighbour's organ mask: what anatomy scores are worth when masks are not obeyed."""
    return replace(cases, organ_masks=np.roll(cases.organ_masks, 1, axis=0))


def model_rows(
    options: Options, pipeline: XRealPipeline, others: Cases, reference: Cases, track: Track, say: Callable[[str], None]
) -> dict[str, Row]:
    """Ask the model for what ``others`` shows, then for the reference's masks; draw every row.

    Args:
        options: n, seed and folder; images that lie there already are kept.
        pipeline: the model.
        others: real images that are not the reference.
        reference: real images that rows are compared with.
        track: shows progress.
        say: tells the user what the drawing will take.

    Raises:
        InputError: more images than there are masks.
        OutputError: the folder holds images that were drawn otherwise.
    """
    requests, owners = ask(joined(others, reference), options.n, options.seed)
    few = range(min(options.two_pass_n, options.n))
    plans: dict[str, _Plan] = {
        REGIONAL: (requests, True, {"mode": "regional"}),
        PROMPTED: (requests, True, {"mode": "regional", "prompt": "{findings}"}),
        PRIOR: (requests, True, {"mode": "regional", "anatomy": default_blend("regional")}),
        TWO_PASS: (requests.take(few), True, {"quality": "reference"}),
        TEXT_ONLY: (requests, False, {"mode": "regional"}),
    }
    if pipeline.anatomy_adapter is None or pipeline.anatomy_controller is None:
        del plans[PRIOR]  # the same as the first row, or nothing to draw from
    plans = {title: plan for title, plan in plans.items() if _NAMES[title] in options.rows}
    say(_forecast(pipeline, requests, plans))
    about = {"weights": weights_hash(resolve_folder(str(options.model)))}
    reconstructed = as_stored(reconstruct(pipeline, others.images), others)
    rows = {RECONSTRUCTED: Row(others, reconstructed, drawn=False)}
    for name, (wanted, use_masks, settings) in plans.items():
        if len(wanted) == 0:
            continue
        folder = options.out / "images" / name.replace(" ", "-")
        cases = draw_row(
            pipeline, wanted, folder, about, options.seed, track, use_masks, options.batch_size, **settings
        )
        if name == PROMPTED:  # its own twin has the prompt too; what that does is seen beside one without
            cases = replace(cases, healthy=rows[REGIONAL].cases.healthy)
        own = owners.take(range(len(cases)))
        rows[name] = Row(cases, as_stored(like_real(cases, own), own), mask_owners=owners.images)
    return rows


def _forecast(pipeline: XRealPipeline, requests: Cases, plans: dict[str, _Plan]) -> str:
    """Time a few steps and say what the drawing will take."""
    mask = requests.organ_masks[0] if len(requests) else None

    def seconds(steps: int, quality: Any) -> float:
        began = time.perf_counter()
        pipeline(mask, [], [0], quality=quality, mode="regional", steps=steps)
        return time.perf_counter() - began

    # Evaluations of the network, with one lesion: docs/speed.md.
    evaluations = {REGIONAL: 16, PROMPTED: 27, PRIOR: 16, TWO_PASS: 300, TEXT_ONLY: 16}
    total = 0.0
    for quality in ("default", "reference"):  # which may be computed by different backends
        names = [name for name, (own, _, given) in plans.items() if own and given.get("quality", "default") == quality]
        if names:
            seconds(2, quality)
            few, many = seconds(2, quality), seconds(6, quality)
            step = max(0.0, (many - few) / 4)
            total += sum(len(plans[name][0]) * (evaluations[name] * step + few) for name in names)
    counts = ", ".join(f"{len(wanted)} {name}" for name, (wanted, _, _) in plans.items() if len(wanted))
    return f"drawing {counts}: at most about {max(1, round(total / 60))} minutes; finished images are kept"
