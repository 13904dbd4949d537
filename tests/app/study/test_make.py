"""Making a study: nothing that a reader gets tells what is generated."""

import io
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xreal.app.study.make import StudyOptions, make_study, order_of_presentation
from xreal.app.study.store import Store
from xreal.errors import DataError, InputError, OutputError
from xreal.images import write_image

from .conftest import write_chests

Make = Callable[..., Store]


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "study.sqlite") as db:
        return db.execute(query).fetchall()


def test_every_reader_sees_every_picture_in_an_order_of_their_own(make: Make, tmp_path: Path) -> None:
    make(repeat=0.25)
    orders = []
    for reader in (1, 2):
        query = "SELECT picture, sight, kind FROM presentations JOIN pictures ON pictures.id = picture"
        shown = rows(tmp_path / "study", f"{query} WHERE reader = {reader} ORDER BY place")
        assert Counter(kind for _, sight, kind in shown if sight == 1) == {"real": 8, "made": 8}
        assert Counter(kind for _, sight, kind in shown if sight == 2) == {"real": 2, "made": 2}
        orders.append([picture for picture, sight, _ in shown if sight == 1])
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("count", "repeat"), [(4, 0.5), (9, 0.3), (40, 0.5), (41, 0.25), (16, 0)])
def test_second_sights_come_late_and_are_not_told_by_their_place(count: int, repeat: float) -> None:
    kinds = ["real" if i % 2 else "made" for i in range(count)]
    for seed in range(20):
        order = order_of_presentation(kinds, repeat, seed)
        places = {entry: place for place, entry in enumerate(order)}
        assert sorted(i for i, sight in order if sight == 1) == list(range(count))
        seconds = [i for i, sight in order if sight == 2]
        assert len(seconds) == sum(int(repeat * n) for n in Counter(kinds).values())
        for i in seconds:
            assert places[i, 2] - places[i, 1] > count // 2
    assert order == order_of_presentation(kinds, repeat, 19)
    assert order != order_of_presentation(kinds, repeat, 20)


def test_pictures_are_bare_and_of_one_size(make: Make, tmp_path: Path, chests: tuple[Path, Path]) -> None:
    make()
    found = rows(tmp_path / "study", "SELECT id, source, kind, png, outlines FROM pictures")
    assert len({len(png) for *_, png, _ in found}) == len({len(outlines) for *_, outlines in found}) == 1
    for name, source, kind, png, _ in found:
        assert len(name) == 16
        assert source not in name
        chunks, at = [], 8
        while at < len(png):
            chunks.append(png[at + 4 : at + 8])
            at += 12 + int.from_bytes(png[at : at + 4])
        assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}
        folder = chests[0] if kind == "real" else chests[1]
        with Image.open(folder / f"{source}.png") as original, Image.open(io.BytesIO(png)) as shown:
            np.testing.assert_array_equal(np.asarray(shown), np.asarray(original))


def test_wide_and_large_pictures_lose_what_only_they_have(
    make: Make, tmp_path: Path, chests: tuple[Path, Path]
) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    for i in range(4):
        write_image(wide / f"{i}.png", np.full((96, 128), 0.5, np.float32))
    make(real=wide)
    sizes, darkest = set(), []
    for kind, png in rows(tmp_path / "study", "SELECT kind, png FROM pictures"):
        shown = np.asarray(Image.open(io.BytesIO(png)))
        sizes.add(shown.shape)
        if kind == "real":
            darkest.append(shown.min())
    assert sizes == {(64 - 2 * 9, 64)}  # 3/4 of the height, one line less at both ends
    assert min(darkest) >= 127  # no black border


def test_only_what_all_groups_have_is_asked(make: Make, tmp_path: Path, chests: tuple[Path, Path]) -> None:
    assert [q.name for q in make().questions] == ["verdict", "realism", "anatomy", "pathology"]
    plain = write_chests(tmp_path / "plain", 80, 4, organs=False)
    store = make(generated=(plain,), out=tmp_path / "b")
    assert [q.name for q in store.questions] == ["verdict", "realism", "pathology"]
    for record in plain.glob("*.json"):
        record.unlink()
    store = make(generated=(plain,), out=tmp_path / "c")
    assert [q.name for q in store.questions] == ["verdict", "realism"]
    assert {asked for (asked,) in rows(tmp_path / "c", "SELECT asked FROM pictures")} == {""}


def test_real_pictures_are_as_many_as_generated_ones(make: Make, tmp_path: Path, chests: tuple[Path, Path]) -> None:
    other = write_chests(tmp_path / "other", 80, 4)
    make(generated=(chests[1], other), n=3)
    kinds = Counter(kind for (kind,) in rows(tmp_path / "study", "SELECT kind FROM pictures"))
    assert kinds == {"real": 6, "made": 3, "other": 3}


def test_a_model_draws_after_real_ones_that_are_not_shown(
    chests: tuple[Path, Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    options = StudyOptions(chests[0], ("Anna",), out, model=str(tiny_model_folder), n=50)
    make_study(options, lambda sequence, _: sequence, lambda _: None)
    shown = {source for (source,) in rows(out, "SELECT source FROM pictures WHERE generated = 0")}
    drawn = [json.loads(path.read_text()) for path in sorted((out / "generated").glob("*.json"))]
    assert len(shown) == len(drawn) == 4
    assert not shown & {record["like"] for record in drawn}
    for record in drawn:
        asked = json.loads((chests[0] / f"{record['like']}.json").read_text())["findings"]
        assert record["findings"] == asked


def test_a_drawn_picture_has_one_finding_and_so_has_a_shown_one(
    phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    options = StudyOptions(phantom_data, ("Anna",), out, model=str(tiny_model_folder), split="train")
    make_study(options, lambda sequence, _: sequence, lambda _: None)  # phantoms have two findings, one or none
    assert {asked.count(",") for (asked,) in rows(out, "SELECT asked FROM pictures")} == {0}


def test_real_x_rays_may_be_a_prepared_data_set_without_masks(
    make: Make, phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    store = make(real=phantom_data, segmenter=str(tiny_model_folder), n=3)
    assert store.real_share() == 0.5
    assert len(rows(tmp_path / "study", "SELECT id FROM pictures")) == 6


def test_bad_input_is_refused_and_nothing_written(make: Make, chests: tuple[Path, Path], tmp_path: Path) -> None:
    single = write_chests(tmp_path / "single", 0, 1)
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    for i in range(2):
        write_image(narrow / f"{i}.png", np.zeros((100, 40), np.float32))
    cases: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
        ({"generated": ()}, InputError, "either --generated FOLDER or a --model"),
        ({"model": "cxr-256"}, InputError, "and not both"),
        ({"readers": ()}, InputError, "no reader"),
        ({"readers": ("Anna", "Anna")}, InputError, "expected different names"),
        ({"generated": (), "model": "cxr-256", "real": single}, InputError, "--model needs at least 4"),
        ({"repeat": 0.7}, InputError, "expected 0 to 0.5"),
        ({"n": 1}, InputError, "n ≥ 2"),
        ({"generated": (chests[1], chests[1])}, InputError, "different names"),
        ({"real": tmp_path / "none"}, DataError, "is no folder"),
        ({"generated": (single,)}, InputError, "at least 2 generated"),
        ({"real": narrow}, InputError, "crop those to nearly square"),
    )
    for changes, kind, said in cases:
        with pytest.raises(kind, match=said):
            make(**changes)
        assert not (tmp_path / "study").exists()
    (tmp_path / "study").mkdir()
    (tmp_path / "study/notes.txt").touch()
    with pytest.raises(OutputError, match="already holds files"):
        make()
