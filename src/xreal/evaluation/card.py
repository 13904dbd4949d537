"""The card's numbers: every axis of one row, each number with its 95% interval and its n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from xreal.data.prepared import PreparedDataset
from xreal.errors import InputError
from xreal.evaluation.anatomy import anatomy_control
from xreal.evaluation.cases import Cases
from xreal.evaluation.control import mean_and_interval
from xreal.evaluation.detection import detection_features, detection_scores
from xreal.evaluation.diversity import diversity_scores
from xreal.evaluation.edits import Edits
from xreal.evaluation.fidelity import FEWEST_FOR_WHOLE_KID, fidelity_scores, whole_kid
from xreal.evaluation.intervals import Number, number
from xreal.evaluation.judges import Extractor, Judges, read_images
from xreal.evaluation.pathology import (
    auroc_and_interval,
    classifier_response,
    lesion_locality,
    localisation,
    response_per_finding,
)
from xreal.evaluation.places import PlaceJudge, real_places
from xreal.evaluation.privacy import NearestImages, copy_summary
from xreal.evaluation.radiomics import radiomics_features, radiomics_scores
from xreal.evaluation.spectrum import spectrum_distance
from xreal.evaluation.telling import NETWORKS, linear_tells, networks_tell
from xreal.evaluation.utility import Utility, classifier_utility, segmenter_utility
from xreal.masks.areas import extent
from xreal.vocabulary import Finding

__all__ = [
    "FEWEST_FOR_FIDELITY",
    "Axis",
    "FidelityReference",
    "ManyReference",
    "anatomy_axis",
    "diversity_axis",
    "edits_axis",
    "finding_fidelity",
    "pathology_axes",
    "places_axis",
    "privacy_axis",
    "utility_axes",
]

FEWEST_FOR_FIDELITY = 100
"""Images on each side below which distances of distributions are not given."""

_FEWEST_REAL_PLACES = 10  # boxes, and places beside them, for an area under the curve

FEW_REAL = 25
"""Real images that the segmenter of the axis utility learns from: few, as where synthetic ones are wanted."""

Axis = dict[str, Number]


def _mean(values: np.ndarray, seed: int = 0) -> Number | None:
    """Average the finite values; None where there are none."""
    n = int(np.isfinite(values).sum())
    if n == 0:
        return None
    mean, low, high = mean_and_interval(values, seed)
    return number(mean, n, low, high)


def _means(scores: Mapping[str, np.ndarray]) -> Axis:
    means = {name: _mean(values) for name, values in scores.items()}
    return {name: one for name, one in means.items() if one is not None}


def _from_flat(scores: Mapping[str, float], n: int) -> Axis:
    """Turn "NAME", "NAME low", "NAME high" into numbers by name."""
    names = [name for name in scores if f"{name} low" in scores]
    return {name: number(scores[name], n, scores[f"{name} low"], scores[f"{name} high"]) for name in names}


class FidelityReference:
    """The real images that every row is compared with; their features are computed once."""

    def __init__(self, images: np.ndarray, extractors: Mapping[str, Extractor], seed: int = 0) -> None:
        self.images, self.extractors, self.seed = images, extractors, seed
        self.features = {name: extractor(images) for name, extractor in extractors.items()}
        self.radiomics = radiomics_features(images)[0]
        self.telling = detection_features(images, self.features["cxr-encoder"], self.radiomics)

    def compare(self, images: np.ndarray) -> dict[str, Axis]:
        """Measure how near images (N, H, W) are to as many of the reference, both in 8 bits as they are stored.

        Returns:
            "fidelity: EXTRACTOR" for each, "radiomics", "spectrum", and "real or generated", the accuracy of a
            classifier that tells them apart.

        Raises:
            InputError: fewer than 100 images on one side.
        """
        n = min(len(images), len(self.images))
        if n < FEWEST_FOR_FIDELITY:
            raise InputError(
                f"fidelity needs at least {FEWEST_FOR_FIDELITY} images on each side; there are {n}. "
                "Raise --n, or leave it out"
            )
        part = np.rint(np.clip(images[:n], 0, 1) * 255).astype(np.float32) / 255
        features = {name: extractor(part) for name, extractor in self.extractors.items()}
        axes = {
            f"fidelity: {name}": _from_flat(fidelity_scores(self.features[name][:n], own, self.seed), n)
            for name, own in features.items()
        }
        radiomics = radiomics_features(part)[0]
        axes["radiomics"] = _from_flat(radiomics_scores(self.radiomics[:n], radiomics, self.seed), n)
        axes["spectrum"] = _from_flat(spectrum_distance(self.images[:n], part, self.seed), n)
        telling = detection_features(part, features["cxr-encoder"], radiomics)
        axes["real or generated"] = _from_flat(detection_scores(self.telling[:n], telling, self.seed), 2 * n)
        return axes


class ManyReference:
    """Hundreds of real X-rays that rows are told from, and others that this is tested on."""

    def __init__(self, learnt: np.ndarray, tested: np.ndarray, seed: int = 0) -> None:
        """Take two sets of images (N, H, W) in [0, 1], of different patients; their features are computed once."""
        self.learnt, self.tested, self.seed = learnt, tested, seed
        self.features = [_without_encoder(images) for images in (learnt, tested)]

    def compare(self, learnt: np.ndarray, tested: np.ndarray, networks: bool = True) -> dict[str, Axis]:
        """Tell images from the real ones, by features and by networks that see pixels.

        The encoder's features have no part in it: it was taught by training X-rays, and knows them.

        Args:
            learnt: (M, H, W), what is learnt from; at least 100.
            tested: (L, H, W), drawn for other masks and seeds.
            networks: let networks learn too, at a quarter, half and the whole of the size.

        Returns:
            "radiomics, many" of what is learnt from, and "real or generated, many": "accuracy, linear", and for each
            size S "accuracy at S pixels" of three networks together, " alone" of each of them (n = 3, lowest and
            highest) and " in training".

        Raises:
            InputError: too few images.
        """
        own = [_without_encoder(images) for images in (learnt, tested)]
        radiomics = radiomics_scores(self.features[0][0], own[0][0], self.seed)
        tests = len(tested) + len(self.tested)
        linear = linear_tells(self.features[0][1], own[0][1], self.features[1][1], own[1][1])
        axis = {"accuracy, linear": _from_flat(linear, tests)["accuracy"]}
        side = self.tested.shape[-1]
        for size in (side // 4, side // 2, side) if networks else ():
            scores = networks_tell(self.learnt, learnt, self.tested, tested, size, self.seed)
            name = f"accuracy at {size} pixels"
            told = _from_flat(scores, tests)
            axis[name], axis[f"{name} alone"] = told["accuracy"], told["accuracy alone"] | {"n": NETWORKS}
            axis[f"{name} in training"] = number(scores["accuracy in training"], len(self.learnt) + len(learnt))
        return {"radiomics, many": _from_flat(radiomics, len(learnt)), "real or generated, many": axis}


def _without_encoder(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the radiomics of images as they are stored in 8 bits, and these beside spectrum and grid."""
    stored = np.rint(np.clip(images, 0, 1) * 255).astype(np.float32) / 255
    radiomics = radiomics_features(stored)[0]
    return radiomics, detection_features(stored, radiomics)


def finding_fidelity(judges: Judges, real: Cases, judged: Cases, seed: int = 0) -> tuple[dict[str, Axis], list[str]]:
    """Measure for each finding how near the images asked to have it are to the real ones that have it.

    Args:
        judges: their encoder gives the features.
        real: with labels.
        judged: with requested findings, of the same size.
        seed: of the intervals.

    Returns:
        Name of each requested finding -> "kid", and "kid of other real images" against those that have it: a finding
        that was drawn well lies below the second. Fewer than 20 images on a side give no number but a note each.
    """
    asked = sorted({finding for names in judged.findings for finding in names})
    if not asked:
        return {}, []
    ours, theirs = (read_images(judges.encoder, cases.images).features.double().numpy() for cases in (judged, real))
    labelled = np.array([bool(names) for names in real.findings])
    axes: dict[str, Axis] = {}
    notes = []
    for finding in asked:
        drawn, owners = (np.array([finding in names for names in cases.findings]) for cases in (judged, real))
        n = min(int(drawn.sum()), int(owners.sum()))
        if n < FEWEST_FOR_WHOLE_KID:
            notes.append(
                f"{finding.value}: {drawn.sum()} judged and {owners.sum()} real images have it; "
                f"at least {FEWEST_FOR_WHOLE_KID} of each are needed"
            )
            continue
        axes[finding.value] = _from_flat(whole_kid(theirs[owners], ours[drawn], seed), n)
        others = labelled & ~owners
        if (rest := min(int(others.sum()), int(owners.sum()))) >= FEWEST_FOR_WHOLE_KID:
            apart = _from_flat(whole_kid(theirs[owners], theirs[others], seed), rest)
            axes[finding.value]["kid of other real images"] = apart["kid"]
    return axes, notes


def anatomy_axis(judges: Judges, cases: Cases, images: np.ndarray | None = None) -> Axis:
    """Compare the requested organs with those that the judging segmenter finds.

    Args:
        judges: its segmenter is used.
        cases: with requested organ masks; images without one do not count.
        images: to judge instead of ``cases.images``, (N, H, W).
    """
    masked = cases.organ_masks.any((1, 2))
    pictures = cases.images if images is None else images
    if not masked.any():
        return {}
    return _means(anatomy_control(judges.segmenter, pictures[masked], cases.organ_masks[masked]))


def pathology_axes(judges: Judges, cases: Cases, places: PlaceJudge | None = None) -> tuple[Axis, dict[str, Axis]]:
    """Measure what lesions changed, where, and whether the judging classifiers see what was asked for.

    Args:
        judges: the encoder answers for whole images.
        cases: those with a healthy twin and a lesion mask count.
        places: answers for the lesions' places, where it could be learnt.

    Returns:
        The axis over all images, and one axis per requested finding.
    """
    twinned = np.isfinite(cases.healthy).all((1, 2)) & cases.lesion_masks.any((1, 2))
    if not twinned.any():
        return {}, {}
    cases = cases.take(np.flatnonzero(twinned))
    scores = (
        lesion_locality(cases.images, cases.healthy, cases.lesion_masks)
        | localisation(cases.images, cases.healthy, cases.lesion_masks)
        | {
            f"response: {name}": values
            for name, values in classifier_response(judges.encoder, cases.images, cases.healthy, cases.findings).items()
        }
    )
    responses = response_per_finding(judges.encoder, cases.images, cases.healthy, cases.findings)
    per_finding: dict[str, Axis] = {}
    for finding in sorted({name for names in cases.findings for name in names}):
        rows = np.array([finding in names for names in cases.findings])
        per_finding[finding.value] = _means({name: values[rows] for name, values in scores.items()})
        if finding.value in responses:
            answer = responses[finding.value]
            value, low, high = answer["auroc"]
            per_finding[finding.value]["auroc"] = number(value, answer["n"], low, high)
    axis = _means(scores)
    if places is not None:
        boxes = np.array([extent(mask) for mask in cases.lesion_masks])
        lesions, twins = (places.look(images, boxes) for images in (cases.images, cases.healthy))
        axis |= _in_place(places, lesions, twins)
        for name, own in per_finding.items():
            rows = np.array([Finding(name) in names for names in cases.findings])
            own |= _told_in_place(places, lesions[rows], twins[rows])
    return axis, per_finding


def places_axis(places: PlaceJudge, data: PreparedDataset) -> Axis:
    """Ask about real opacities that the judge of places has not seen: what perfect lesions could reach.

    Args:
        places: the judge.
        data: with boxes; fewer than ten give nothing.

    Returns:
        As "pathology" has them of drawn lesions and their twins, of boxes and the same places of healthy lungs: "auroc
        in place", "kid in place", "kid in place, healthy"; and by how much boxes are "brighter".
    """
    windows, truth, brighter = real_places(data)
    if min(boxed := int((truth > 0).sum()), len(truth) - boxed) < _FEWEST_REAL_PLACES:
        return {}
    features = places.encode(windows)
    axis = _in_place(places, features[truth > 0], features[truth < 0], paired=False)
    return axis | _means({"brighter": brighter})


def _in_place(places: PlaceJudge, lesions: np.ndarray, healthy: np.ndarray, paired: bool = True) -> Axis:
    """Tell places with a lesion from healthy ones, and measure how near both are to the boxes of real opacities."""
    axis = _told_in_place(places, lesions, healthy, paired)
    for name, features in (("kid in place", lesions), ("kid in place, healthy", healthy)):
        if (n := min(len(features), len(places.boxes))) >= FEWEST_FOR_WHOLE_KID:
            axis[name] = _from_flat(whole_kid(places.boxes, features), n)["kid"]
    return axis


def _told_in_place(places: PlaceJudge, lesions: np.ndarray, healthy: np.ndarray, paired: bool = True) -> Axis:
    value, low, high = auroc_and_interval(places(lesions), places(healthy), paired=paired)
    return {"auroc in place": number(value, len(lesions), low, high)}


def privacy_axis(nearest: NearestImages, held_out: NearestImages) -> tuple[Axis, dict[str, Any]]:
    """Count copies of training images among the judged ones, beside held-out real images.

    Returns:
        The axis, and the whole summary with its quantiles.
    """
    summary = copy_summary(nearest.similarity, held_out.similarity)
    flagged = number(summary["flagged"], summary["n"], summary["flagged_low"], summary["flagged_high"])
    median = number(float(np.median(nearest.similarity)), summary["n"])
    held_out_median = number(float(np.median(held_out.similarity)), summary["held_out_n"])
    return {"flagged": flagged, "median similarity": median, "held-out median similarity": held_out_median}, summary


def diversity_axis(images: np.ndarray, groups: Sequence[int], real_images: np.ndarray) -> Axis:
    """Compare images of one mask and prompt with each other, beside random pairs of real images.

    Args:
        images: (N, H, W).
        groups: N labels; images of one label were asked for alike.
        real_images: (M, H, W).
    """
    scores = diversity_scores(images, groups, real_images)
    return _means({name: values for name, values in scores.items() if name != "ms-ssim within groups"})


def edits_axis(edits: Edits) -> Axis:
    """Average what edits of one kind did to real X-rays."""
    return _means(edits.scores)


def utility_axes(
    real_train: Cases, masked: Cases, labelled: Cases, test: Cases, seconds: float
) -> tuple[dict[str, Axis], list[str]]:
    """Train small networks on few real images, with and without the drawn ones, and test them on real images.

    Args:
        real_train: real images of the ``train`` split.
        masked: drawn images with the organ masks that were requested, for a segmenter.
        labelled: drawn images with the findings that were requested, for a classifier.
        test: real images of other patients.
        seconds: time limit, half of it for each task.

    Returns:
        "utility: segmenter" and "utility: Pneumonia classifier": "METRIC, ARM" over the seeds (n = seeds), and
        "gain METRIC, ARM" against "real only"; and a note for each that these images do not suffice for.
    """
    with_masks = int(masked.organ_masks.any((1, 2)).sum())
    with_labels = min(sum(bool(names) for names in cases.findings) for cases in (labelled, real_train))
    axes, notes = {}, []
    few = min(FEW_REAL, with_masks)
    # All that were drawn: real masks are dear, drawn X-rays cost nothing.
    segmenter = partial(segmenter_utility, few_shot=few, ratios=(with_masks // max(1, few),))
    classifier = partial(classifier_utility, Finding.PNEUMONIA, few_shot=with_labels)
    for name, task, drawn in (("segmenter", segmenter, masked), ("Pneumonia classifier", classifier, labelled)):
        try:
            axes[f"utility: {name}"] = _arms(task(real_train, drawn, test, seconds / 2))
        except InputError as error:  # the other task may still be possible, and the rest of the card is done
            notes.append(f"utility of a {name}: {error}")
    return axes, notes


def _arms(utility: Utility) -> Axis:
    axis = {}
    for prefix, table in (("", utility.scores), ("gain ", utility.differences)):
        for metric, arms in table.items():
            for arm, scores in arms.items():
                axis[f"{prefix}{metric}, {arm}"] = number(float(np.mean(scores)), len(scores), min(scores), max(scores))
    return axis
