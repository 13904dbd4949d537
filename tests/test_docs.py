"""README and docs: every command parses, those of the quick start run, and the site loads nothing from elsewhere."""

import itertools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import xreal
import xreal.cli
from xreal.images import write_image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(xreal [^`]+)`")
BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


def fenced(page: Path) -> Iterator[str]:
    """Yield the lines of a page's blocks that begin with xreal, continued lines as one."""
    for language, block in FENCE.findall(page.read_text("utf-8")):
        if language not in ("", "sh", "bash", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                if part.strip().startswith("xreal "):
                    yield part.strip()


def inline(page: Path) -> Iterator[str]:
    """Yield what running text names as a command, line breaks as spaces."""
    for command in INLINE.findall(page.read_text("utf-8")):
        yield " ".join(command.split())


def alternatives(command: str) -> Iterator[str]:
    """Write out ``{a,b}``."""
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(BRACES.split(command))]
    return ("".join(one) for one in itertools.product(*choices))


def words(command: str) -> list[str]:
    """Split as a shell does; ``[--option]`` counts as given, ``...`` as nothing."""
    plain = re.sub(r"(?<=\s)\[|\](?=\s|$)", " ", command)
    return [word for word in shlex.split(plain, comments=True) if word != "..."][1:]


def parse(arguments: list[str], partly: bool) -> str | None:
    """Parse as the command line does; return what is wrong. ``partly``: required options may be left out."""
    command: Any = typer.main.get_command(xreal.cli.app)
    context = None
    try:
        while hasattr(command, "commands"):
            if not arguments or arguments[0].startswith("-"):
                return None if partly else "no command"
            name, *arguments = arguments
            if name.isupper() and partly:
                return None
            if name not in command.commands:
                return f"no command {name!r}"
            command = command.commands[name]
        if arguments != ["--help"]:
            context = command.make_context(name, arguments)
    except Exception as error:
        if type(error).__name__ in ("MissingParameter", "BadOptionUsage") and partly:  # an option without its value
            return None
        return f"{type(error).__name__}: {error}"
    finally:
        if context is not None:
            context.close()
    return None


def cases(kind: Callable[[Path], Iterator[str]]) -> list[Any]:
    found = sorted({(page.name, command) for page in PAGES for command in kind(page)})
    return [pytest.param(command, id=f"{page}: {command}") for page, command in found]


@pytest.mark.parametrize("command", cases(fenced))
def test_every_command_of_a_block_parses(command: str) -> None:
    for one in alternatives(command):
        # "[...]" shows what may be added, "..." leaves out what stands above.
        assert parse(words(one), partly="[" in one or " ..." in one) is None


@pytest.mark.parametrize("command", cases(inline))
def test_every_command_in_running_text_exists(command: str) -> None:
    for one in alternatives(command):
        assert parse(words(one), partly=True) is None


def test_a_wrong_command_does_not_pass() -> None:
    assert "no command 'draw'" in str(parse(words("xreal draw --out x"), partly=True))
    assert "NoSuchOption" in str(parse(words("xreal generate --organ x --out y"), partly=True))
    assert "MissingParameter" in str(parse(words("xreal generate --organs x"), partly=False))
    assert "BadParameter" in str(parse(words("xreal generate --out x --steps many"), partly=True))
    commands = [command for page in PAGES for command in fenced(page)]
    shown = {words(command)[0] for command in commands}
    assert shown == set(typer.main.get_command(xreal.cli.app).commands)  # every command has its example


def test_the_quick_start_runs(
    run: Callable[..., int], tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(Path(xreal.__file__).parent / "examples/organs.png", tmp_path)
    write_image(tmp_path / "chest.png", np.random.default_rng(0).random((256, 256), np.float32))
    monkeypatch.chdir(tmp_path)
    commands = list(fenced(ROOT / "docs/quickstart.md"))
    assert len(commands) == 6
    for command in commands:
        arguments = words(command)
        if arguments[0] != "masks":
            arguments += ["--model", str(tiny_model_folder)]
        if arguments[0] in ("generate", "edit"):
            arguments += ["--steps", "2"]
        assert run(*arguments) == 0, command
    drawn = ("out/one/0000-healthy.png", "out/wide/0000.png", "out/like-mine/0001.png", "out/edited/weight.png")
    assert all((tmp_path / name).is_file() for name in (*drawn, "masks/0001.png", "found.png"))


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loads = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    assert {url for page in pages for url in loads.findall(page.read_text("utf-8"))} == set()
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?https?:", style.read_text("utf-8")), style
    method = (tmp_path / "site/method.html").read_text("utf-8")
    assert "torch" in method
    assert "{{code" not in method
