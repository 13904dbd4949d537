"""Names: every spelling finds its finding, and prompts do not depend on the order they were given in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xreal.errors import FindingError
from xreal.vocabulary import Finding, Organ, parse_finding, prompt_from_findings, prompt_words

findings = st.lists(st.sampled_from(list(Finding)))


@pytest.mark.parametrize("finding", Finding)
def test_every_spelling_of_a_name_is_understood(finding: Finding) -> None:
    name = finding.value
    for spelled in (name, name.upper(), name.lower(), f" {name} ", name.replace(" ", "_"), name.replace(" ", "-")):
        assert parse_finding(spelled) is finding
    assert parse_finding(finding) is finding


@pytest.mark.parametrize(
    ("alias", "finding"),
    [
        ("Effusion", Finding.PLEURAL_EFFUSION),
        ("Infiltrate", Finding.INFILTRATION),
        ("Pleural_Thickening", Finding.PLEURAL_THICKENING),
        ("oedema", Finding.EDEMA),
        ("normal", Finding.NO_FINDING),
    ],
)
def test_names_of_the_data_sets(alias: str, finding: Finding) -> None:
    assert parse_finding(alias) is finding


def test_unknown_name_suggests_and_lists() -> None:
    with pytest.raises(FindingError, match=r"unknown finding 'Atelectsis'\. Did you mean 'Atelectasis'\?") as raised:
        parse_finding("Atelectsis")
    assert all(finding.value in str(raised.value) for finding in Finding)
    with pytest.raises(FindingError) as raised:
        parse_finding("")
    assert "Did you mean" not in str(raised.value)


@given(findings, st.randoms())
def test_prompt_does_not_depend_on_order_repetition_or_spelling(names: list[Finding], random: object) -> None:
    shuffled = [name.value.upper() for name in names] + names[:2]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert prompt_from_findings(shuffled, "AP", "M") == prompt_from_findings(names, "AP", "M")


@given(st.sets(st.sampled_from(list(Finding))), st.sampled_from(["PA", "AP", "LL", ""]), st.sampled_from("MFOX"))
def test_prompt_holds_known_phrases_only_each_once(names: set[Finding], view: str, sex: str) -> None:
    prompt = prompt_from_findings(names, view, sex)
    phrases = prompt.split(", ") if prompt else []
    assert set(phrases) <= set(prompt_words())
    assert len(phrases) == len(names) + (view in ("PA", "AP")) + (sex in ("M", "F"))
    assert {Finding(phrase) for phrase in phrases[: len(names)]} == names


def test_prompts_as_documented() -> None:
    assert prompt_from_findings(["Pneumonia", "Effusion"], "AP", "F") == "Pleural Effusion, Pneumonia, AP view, female"
    assert prompt_from_findings([]) == ""


def test_organs_are_the_papers_labels() -> None:
    assert [organ.title for organ in Organ] == ["background", "left lung", "right lung", "heart", "aorta"]
    assert [int(organ) for organ in Organ] == [0, 1, 2, 3, 4]
