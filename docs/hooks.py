"""Puts code into pages: a line ``{{code: xreal.control.blending.keep_reference}}`` becomes that function's lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1] / "src"
_MARK = re.compile(r"^\{\{code: ([\w.]+)\}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the code of a page; called by MkDocs."""
    return _MARK.sub(lambda mark: _block(mark[1]), markdown)


def _block(name: str) -> str:
    """Write a function's source without its docstring; a name that is gone stops the build."""
    parts = name.split(".")
    path = next(p for n in range(len(parts), 0, -1) if (p := _ROOT.joinpath(*parts[:n]).with_suffix(".py")).is_file())
    inside = parts[len(path.relative_to(_ROOT).parts) :]
    text = path.read_text("utf-8")
    node: Any = ast.parse(text)
    for part in inside:
        node = next(child for child in node.body if getattr(child, "name", None) == part)
    lines = text.splitlines()
    docstring = node.body[0]
    kept = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
    indent = len(kept[0]) - len(kept[0].lstrip())
    code = "\n".join(line[indent:] for line in kept)
    return f'```python title="{path.relative_to(_ROOT)}, line {node.lineno}"\n{code}\n```'
