"""Make a study: choose, blind, shuffle, write."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.segmentation import find_boundaries

from xreal.app.study.drawing import Track, draw_like, first_findings, open_model
from xreal.app.study.groups import Group, find_organs, read_folder, read_prepared, same_frame, take_some
from xreal.app.study.questions import ANATOMY, PATHOLOGY, REALISM, VERDICT
from xreal.app.study.store import FILE_NAME, Picture, Presentation, Reader, Store
from xreal.errors import InputError
from xreal.evaluation.cases import Cases, picture_paths
from xreal.images import check_output_folder, prepare_output_folder
from xreal.vocabulary import Finding, prompt_from_findings

__all__ = ["StudyOptions", "make_study", "order_of_presentation"]

_FEWEST, _LARGEST_REPEAT = 2, 0.5
_REAL = "real"
_LESION = 5
# Background (transparent), left lung, right lung, heart, aorta, lesion.
_COLOURS = (0, 0, 0, 90, 160, 255, 80, 200, 120, 255, 110, 90, 255, 210, 80, 255, 90, 255)


@dataclass(frozen=True)
class StudyOptions:
    """What to make a study of.

    Attributes:
        real: folder of pictures, or prepared data set.
        readers: their names, each gets a link.
        out: new folder.
        generated: folders of pictures, each a group of its own; or
        model: bundled model or model folder that draws them.
        n: most generated pictures per group; as many real ones are taken as generated ones in all.
        repeat: share of the pictures that are shown twice, to compare a reader with themself.
        segmenter: model whose segmenter finds the organ masks that real X-rays lack.
        split: of a prepared data set.
        seed: of choice and order.
    """

    real: Path
    readers: tuple[str, ...]
    out: Path
    generated: tuple[Path, ...] = ()
    model: str | None = None
    n: int = 50
    repeat: float = 0.25
    segmenter: str | None = None
    split: str = "val"
    seed: int = 0


def make_study(options: StudyOptions, track: Track, say: Callable[[str], None]) -> Store:
    """Make a study.

    Raises:
        InputError: contradicting options, or too few pictures; OutputError: the folder holds files.
        DataError, ImageError, ModelError: what was given cannot be read.
    """
    _check_options(options)
    groups = _draw_groups(options, track) if options.model else _read_groups(options)
    groups = same_frame(_balanced(groups, options.seed))
    questions = _questions(groups, say)
    prepare_output_folder(options.out, overwrite=options.model is not None)  # drawn pictures lie there already
    pictures = _pictures(groups, questions)
    readers = [Reader(i, name, secrets.token_urlsafe(24)) for i, name in enumerate(options.readers, start=1)]
    kinds = [picture.kind for picture in pictures]
    presentations = [
        Presentation(secrets.token_hex(8), reader.number, place, pictures[index].id, sight)
        for reader in readers
        for place, (index, sight) in enumerate(
            order_of_presentation(kinds, options.repeat, [options.seed, reader.number])
        )
    ]
    about = {"questions": questions, "seed": options.seed, "repeat": options.repeat}
    store = Store.create(options.out, about, pictures, readers, presentations)
    counts = ", ".join(f"{len(group.cases)} {group.name}" for group in groups)
    height, width = groups[0].cases.images.shape[1:]
    say(f"{options.out / FILE_NAME}  {counts}, {width} × {height} pixels; questions: {', '.join(questions)}")
    say(f"{len(presentations) // len(readers)} presentations for each of {len(readers)} readers")
    return store


def order_of_presentation(kinds: Sequence[str], repeat: float, seed: int | Sequence[int]) -> list[tuple[int, int]]:
    """Shuffle pictures and put second sights of some of them in between.

    Repeated pictures are first seen in the first half, and again at least half the number of pictures later, at a
    random place, so that neither their number nor the end of the list tells which they are.

    Args:
        kinds: group of each picture; of each the same share is repeated.
        repeat: that share, 0 to 0.5.
        seed: of the order.

    Returns:
        Pairs of picture's index and sight, 1 or 2.
    """
    rng = np.random.default_rng(seed)
    count = len(kinds)
    repeated: list[int] = []
    for kind in sorted(set(kinds)):
        own = rng.permutation([i for i, other in enumerate(kinds) if other == kind])
        repeated += own[: int(repeat * len(own))].tolist()
    others = rng.permutation([i for i in range(count) if i not in set(repeated)]).astype(int).tolist()
    half = count // 2
    fill = half - len(repeated)
    first = [*rng.permutation(repeated + others[:fill]).astype(int).tolist(), *others[fill:]]
    times = [(float(rank), i, 1) for rank, i in enumerate(first)]
    times += [(rank + half + rng.uniform(0.01, half), i, 2) for rank, i in enumerate(first) if i in set(repeated)]
    return [(i, sight) for _, i, sight in sorted(times)]


def _check_options(options: StudyOptions) -> None:
    if bool(options.generated) == (options.model is not None):
        raise InputError("give either --generated FOLDER or a --model that draws, and not both")
    if not options.readers:
        raise InputError("no reader; give --reader NAME for each, who then gets a link of their own")
    names = [name.strip() for name in options.readers]
    if len(set(names)) < len(names) or not all(names):
        raise InputError(f"readers are {', '.join(map(repr, names))}; expected different names")
    if not 0 <= options.repeat <= _LARGEST_REPEAT:
        raise InputError(f"repeat is {options.repeat}; expected 0 to {_LARGEST_REPEAT}, the share that is shown twice")
    if options.n < _FEWEST or options.seed < 0:
        raise InputError(f"n is {options.n}, seed {options.seed}; expected n ≥ {_FEWEST} and seed ≥ 0")
    groups = [_REAL, *(_group_name(folder) for folder in options.generated)]
    if len(set(groups)) < len(groups):
        raise InputError(f"groups are {', '.join(groups)}; expected generated folders with different names, not 'real'")
    check_output_folder(options.out)


def _group_name(folder: Path) -> str:
    return folder.resolve().name


def _read_real(options: StudyOptions, n: int, size: int | None = None) -> Group:
    if any(options.real.glob("*.parquet")):
        group = read_prepared(options.real, _REAL, options.split, n, options.seed)
    else:
        group = read_folder(options.real, _REAL, False, n, options.seed, size)
    if options.segmenter:
        group = replace(group, cases=find_organs(group.cases, options.segmenter))
    return group


def _read_groups(options: StudyOptions) -> list[Group]:
    n, seed = options.n, options.seed
    drawn = [read_folder(folder, _group_name(folder), True, n, seed, None) for folder in options.generated]
    total = sum(len(group.cases) for group in drawn)
    real = _read_real(options, total)
    size = min(group.cases.images.shape[1] for group in (real, *drawn))  # never enlarged: what is blurred is known
    if real.cases.images.shape[1] != size:
        if any(options.real.glob("*.parquet")):
            raise InputError(
                f"{options.real} holds X-rays of {real.cases.images.shape[1]} pixels, the generated pictures are of "
                f"{size}; prepare the X-rays at that size (xreal prepare --image-size {size})"
            )
        real = _read_real(options, total, size)
    drawn = [
        group if group.cases.images.shape[1] == size else read_folder(folder, group.name, True, n, seed, size)
        for folder, group in zip(options.generated, drawn, strict=True)
    ]
    return [real, *drawn]


def _draw_groups(options: StudyOptions, track: Track) -> list[Group]:
    assert options.model is not None
    if not any(options.real.glob("*.parquet")):
        picture_paths(options.real)  # refuses a wrong folder before a model is loaded
    pipeline = open_model(options.model)
    chosen = replace(options, segmenter=options.segmenter or options.model)
    both = _read_real(chosen, 2 * options.n, pipeline.image_size)
    if both.cases.images.shape[1] != pipeline.image_size:
        raise InputError(
            f"{options.real} holds X-rays of {both.cases.images.shape[1]} pixels, {options.model} draws "
            f"{pipeline.image_size}; prepare them at that size"
        )
    half = len(both.cases) // 2
    if half < _FEWEST:
        raise InputError(
            f"{options.real} holds {len(both.cases)} X-rays; --model needs at least {2 * _FEWEST}, half to be shown "
            "and half to draw after"
        )
    # Drawn after X-rays that are not shown: the same outlines on two pictures would say that one of them is drawn.
    order = np.random.default_rng(options.seed).permutation(2 * half)
    shown, owners = (first_findings(both.cases.take(part)) for part in (order[:half], order[half:]))
    prepare_output_folder(options.out)
    folder = options.out / "generated"
    draw_like(owners, options.model, pipeline, folder, options.seed, track)
    return [replace(both, cases=shown), read_folder(folder, "generated", True, None, 0, None)]


def _balanced(groups: list[Group], seed: int) -> list[Group]:
    """Leave as many real pictures as generated ones, and no more generated ones than there are real ones."""
    real, *drawn = groups
    each = min(min(len(group.cases) for group in drawn), len(real.cases) // len(drawn))
    if each < _FEWEST:
        raise InputError(
            f"{len(real.cases)} real pictures and {', '.join(f'{len(g.cases)} {g.name}' for g in drawn)}; a study "
            f"needs at least {_FEWEST} generated ones of each group and as many real ones as all of these together"
        )

    def some(group: Group, count: int) -> Group:
        return replace(group, cases=group.cases.take(take_some(len(group.cases), count, seed)))

    return [some(real, each * len(drawn)), *(some(group, each) for group in drawn)]


def _questions(groups: Sequence[Group], say: Callable[[str], None]) -> list[str]:
    """Choose what can be asked of all groups alike: what only one of them has would tell them apart."""
    questions = [VERDICT.name, REALISM.name]
    if lacking := [group.name for group in groups if not group.cases.organ_masks.any(axis=(1, 2)).all()]:
        say(f"no question about anatomy: {', '.join(lacking)} lack organ masks (NAME-organs.png; --segmenter for real)")
    else:
        questions.append(ANATOMY.name)
    if lacking := [group.name for group in groups if not all(group.cases.findings)]:
        say(f"no question about pathology: findings of {', '.join(lacking)} are not all known (NAME.json)")
    elif all(any(_is_sick(own) for own in group.cases.findings) for group in groups):
        questions.append(PATHOLOGY.name)
    else:
        say("no question about pathology: not every group has pictures with findings")
    return questions


def _is_sick(findings: tuple[Finding, ...]) -> bool:
    return any(finding is not Finding.NO_FINDING for finding in findings)


def _pictures(groups: Sequence[Group], questions: Sequence[str]) -> list[Picture]:
    show_organs, show_findings = ANATOMY.name in questions, PATHOLOGY.name in questions
    show_lesions = show_findings and all(
        mask.any() for group in groups for mask, own in zip(group.cases.lesion_masks, group.cases.findings, strict=True)
        if _is_sick(own)
    )  # fmt: skip
    pictures = []
    for group in groups:
        cases = group.cases
        for i in range(len(cases)):
            sick = show_findings and _is_sick(cases.findings[i])
            pictures.append(
                Picture(
                    id=secrets.token_hex(8),
                    kind=group.name,
                    generated=group.generated,
                    source=cases.image_ids[i],
                    asked=prompt_from_findings(cases.findings[i]) if show_findings else "",
                    has_pathology=sick,
                    png=_bare_png(Image.fromarray(np.rint(cases.images[i].clip(0, 1) * 255).astype(np.uint8))),
                    outlines=_outlines(cases, i, show_organs, show_lesions and sick),
                )
            )
    return pictures


def _outlines(cases: Cases, index: int, organs: bool, lesion: bool) -> bytes | None:
    if not organs and not lesion:
        return None
    labels = np.zeros(cases.images.shape[1:], np.uint8)
    if organs:
        mask = cases.organ_masks[index]
        labels = np.where(find_boundaries(mask, mode="inner"), mask, labels)
    if lesion:
        labels[find_boundaries(cases.lesion_masks[index] > 0, mode="inner")] = _LESION
    picture = Image.fromarray(labels)
    picture.putpalette(_COLOURS)
    return _bare_png(picture, transparency=0)


def _bare_png(picture: Image.Image, **settings: int) -> bytes:
    """Write pixels and nothing else, uncompressed, so that even the sizes of files are equal."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=0, **settings)
    return buffer.getvalue()
