"""A plan is read whole or refused with what is wrong in it."""

from pathlib import Path
from typing import Any

import pytest

from xreal.bulk.plan import Group, parse_plan, read_plan
from xreal.errors import InputError
from xreal.vocabulary import Finding

ONE = [{"n": 1}]

FULL = """
images:
  - {findings: [Lung Opacity], n: 100}
  - {findings: [edema, Pleural Effusion], n: 50}
  - {findings: [No Finding], n: 20}
  - {n: 30}
seed: 3
batch_size: 8
anatomies: {ctr: [0.45, 0.6], lung_scale: 1.1}
lesions: {boxes: prepared, strength: [0.8, 1.2]}
draw: {steps: 20, exact: true}
checks: {min_dice: 0.9, retries: 5, train: [a, b]}
"""


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(FULL)
    plan = read_plan(tmp_path / "plan.yaml")
    assert plan.images[1] == Group((Finding.EDEMA, Finding.PLEURAL_EFFUSION), 50)
    assert plan.images[2].findings == plan.images[3].findings == ()
    assert (plan.n, plan.seed, plan.batch_size) == (200, 3, 8)
    assert (plan.anatomies.ctr, plan.anatomies.lung_scale, plan.anatomies.tilt) == ((0.45, 0.6), (1.1, 1.1), None)
    assert (plan.lesions.boxes, plan.lesions.strength) == (("prepared",), (0.8, 1.2))
    assert (plan.draw.steps, plan.draw.exact) == (20, True)
    assert (plan.checks.min_dice, plan.checks.retries, plan.checks.train) == (0.9, 5, ("a", "b"))


def test_images_follow_the_groups_in_order() -> None:
    plan = parse_plan({"images": [{"findings": ["Edema"], "n": 2}, {"n": 1}, {"findings": ["Mass"], "n": 1}]})
    assert [plan.findings_of(i) for i in range(plan.n)] == [(Finding.EDEMA,)] * 2 + [(), (Finding.MASS,)]
    with pytest.raises(IndexError):
        plan.findings_of(4)


def test_what_the_quality_means_is_written_out() -> None:
    draft, reference = (parse_plan({"images": ONE, "draw": {"quality": q}}).draw for q in ("draft", "reference"))
    assert (draft.mode, draft.solver) == ("regional", "dpm++")
    assert (reference.mode, reference.solver, reference.steps, reference.eta) == ("two-pass", "ddim", 100, 1.0)
    assert draft.steps is not None
    assert 0 < draft.steps < 100
    assert draft.guidance is None  # the model's own: less where it is told the places of findings
    assert reference.guidance == 7


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "the plan: expected keys and values"),
        ({}, "images: expected a list"),
        ({"images": []}, "at least one entry"),
        ({"images": ONE, "sead": 1}, "unknown key 'sead'; expected some of images, seed"),
        ({"images": [{"finding": "Edema", "n": 1}]}, "unknown key 'finding'"),
        ({"images": [{"findings": ["Edema"]}]}, "does not say how many"),
        ({"images": [{"findings": ["Edma"], "n": 1}]}, "Did you mean 'Edema'"),
        ({"images": [{"findings": ["Edema", "No Finding"], "n": 1}]}, "No Finding stands beside a finding"),
        ({"images": [{"n": 0}]}, "n is 0; expected a whole number from 1"),
        ({"images": [{"n": True}]}, "n is True"),
        ({"images": ONE, "seed": -1}, "seed is -1"),
        ({"images": ONE, "anatomies": {"ctr": [0.6, 0.5]}}, "anatomies: ctr"),
        ({"images": ONE, "anatomies": {"ctr": "wide"}}, "ctr is 'wide'; expected a number"),
        ({"images": ONE, "anatomies": {"masks": "m", "tilt": 2}}, "tilt shapes the shape model's chests, but masks"),
        ({"images": ONE, "anatomies": {"redraw": "d", "masks": "m"}}, "takes the organs of real X-rays; leave masks"),
        ({"images": ONE, "anatomies": {"redraw": "d", "ctr": 0.5}}, "takes the organs of real X-rays; leave ctr"),
        ({"images": ONE, "anatomies": {"redraw": "d"}, "lesions": {"boxes": "d"}}, "by prompt, not by place"),
        ({"images": ONE, "anatomies": {"redraw": "d"}, "draw": {"prompt": "AP view"}}, "leave draw: prompt out"),
        ({"images": ONE, "lesions": {"strength": 9}}, "from 0.01 to 4"),
        ({"images": ONE, "lesions": {"boxes": [3]}}, "boxes is [3]"),
        ({"images": ONE, "draw": {"mode": "fast"}}, "unknown mode 'fast'"),
        ({"images": ONE, "draw": {"quality": "best"}}, "unknown quality 'best'"),
        ({"images": ONE, "draw": {"exact": 1}}, "exact is 1; expected true or false"),
        ({"images": ONE, "draw": {"guidance": float("nan")}}, "guidance is nan"),
        ({"images": ONE, "checks": {"min_dice": 1.5}}, "min_dice is 1.5; expected 0 to 1"),
        ({"images": ONE, "checks": {"retries": 1.5}}, "retries is 1.5"),
    ],
)
def test_what_is_wrong_is_named(given: Any, says: str) -> None:
    with pytest.raises(InputError) as error:
        parse_plan(given)
    assert says in str(error.value)


def test_files_that_are_no_plan_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    for text, says in (
        ("images: [", "is not YAML"),
        ("images: [{n: 0}]", "broken.yaml: images: n is 0"),
        (None, "read"),
    ):
        broken.unlink(missing_ok=True)
        if text is not None:
            broken.write_text(text)
        with pytest.raises(InputError, match=says):
            read_plan(broken)
