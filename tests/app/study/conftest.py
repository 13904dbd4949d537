"""Two folders of phantoms that are as real and as generated X-rays, and a study of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from xreal.app.study.make import StudyOptions, make_study
from xreal.app.study.store import Store
from xreal.data.phantom import phantom
from xreal.images import write_image, write_json
from xreal.masks.organs import write_organ_mask
from xreal.vocabulary import Finding

SIZE = 64


def write_chests(folder: Path, first: int, count: int, size: int = SIZE, organs: bool = True) -> Path:
    """Write phantoms, every second one with pneumonia, and what was asked for beside them."""
    folder.mkdir()
    for i in range(count):
        findings = (Finding.PNEUMONIA,) if i % 2 else ()
        chest = phantom(first + i, size, findings)
        write_image(folder / f"{folder.name}-{i}.png", chest.image)
        write_json(folder / f"{folder.name}-{i}.json", {"findings": [*findings] or ["No Finding"]})
        if organs:
            write_organ_mask(folder / f"{folder.name}-{i}-organs.png", chest.organ_mask)
    return folder


@pytest.fixture(scope="session")
def chests(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Hold eight real and eight made ones."""
    folder = tmp_path_factory.mktemp("chests")
    return write_chests(folder / "xray", 0, 8), write_chests(folder / "made", 50, 8)


@pytest.fixture
def make(chests: tuple[Path, Path], tmp_path: Path) -> Callable[..., Store]:
    """Return a function that makes a study of them in ``tmp_path / "study"``."""

    def call(**changes: object) -> Store:
        real, made = chests
        given = {"real": real, "readers": ("Anna", "Ben"), "out": tmp_path / "study", "generated": (made,), "seed": 3}
        return make_study(StudyOptions(**(given | changes)), lambda sequence, _: sequence, lambda _: None)

    return call
