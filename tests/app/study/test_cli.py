"""``xreal study`` through its own entry point."""

from collections.abc import Callable
from pathlib import Path

import pytest

import xreal.cli.study

Run = Callable[..., int]


def test_make_says_what_it_made_and_what_comes_next(
    run: Run, chests: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("study", "make", "--real", chests[0], "--generated", chests[1], "--reader", "Anna", "--out", tmp_path / "s")
    assert run(*call, "-n", 4, "--repeat", 0.5) == 0
    said = capsys.readouterr().out
    assert "4 real, 4 made, 64 × 64 pixels; questions: verdict, realism, anatomy, pathology" in said
    assert "12 presentations for each of 1 readers" in said
    assert f"next: xreal study serve {tmp_path / 's'}" in said
    assert run("study", "report", tmp_path / "s", "--out", tmp_path / "report") == 2
    assert "no answer has been confirmed yet" in capsys.readouterr().err
    assert run("study", "serve", tmp_path) == 2
    assert "holds no study.sqlite" in capsys.readouterr().err


def test_a_missing_package_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(xreal.cli.study, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert run("study", "serve", tmp_path) == 2
    assert 'study needs uvicorn; install them: pip install "xreal-cxr[study]"' in capsys.readouterr().err
