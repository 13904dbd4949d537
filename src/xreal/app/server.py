"""Serve the page on this computer."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xreal.errors import InputError, ModelError

__all__ = ["serve"]

MAX_UPLOAD = "64mb"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    model: str = "cxr-256", host: str = "127.0.0.1", port: int = 7860, open_browser: bool = False, block: bool = True
) -> Any:
    """Open the page for visitors and load the model in the background.

    Args:
        model: bundled model or model folder.
        host: address to listen at; any but this computer's own lets others in, who need no password.
        port: 1 to 65535.
        open_browser: open the page in this computer's browser.
        block: serve until interrupted.

    Returns:
        Gradio's Blocks, which has ``close()``.

    Raises:
        InputError: Gradio is not installed, or the port is taken or out of range; ModelError: no such model.
    """
    if find_spec("gradio") is None:
        raise InputError('the studio needs Gradio: pip install "xreal-cxr[studio]"')
    if not 1 <= port <= 65535:
        raise InputError(f"port is {port}; expected 1 to 65535")
    bundled = Path(__file__).resolve().parents[1] / "weights" / model
    if not (bundled / "model_index.json").is_file() and not (Path(model) / "model_index.json").is_file():
        raise ModelError(f"{model} is neither a bundled model (cxr-256) nor a folder with a model_index.json")
    folder = Path(tempfile.mkdtemp(prefix="xreal-studio-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")  # read when Gradio is imported

    import gradio as gr

    from xreal.app.engine import Engine
    from xreal.app.events import Events
    from xreal.app.page import build_page, static

    engine = Engine(model)
    page = build_page(engine, Events(engine, folder / "sessions"))
    page.queue(default_concurrency_limit=1, max_size=32, api_open=False)
    font = ["system-ui", "sans-serif"]
    try:
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            share=False,
            quiet=True,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            pwa=False,
            footer_links=[],
            max_file_size=MAX_UPLOAD,
            theme=gr.themes.Default(font=font, font_mono=["ui-monospace", "monospace"]),
            css=static("page.css"),
        )
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be listened at ({error}); choose another --port or --host") from None
    print(f"XReal studio: {page.local_url}  (synthetic images, not for diagnosis; Ctrl+C ends it)", flush=True)
    if host not in _LOOPBACK:
        print(f"Listening at {host}: whoever reaches this computer can use it and needs no password.", flush=True)
    engine.load_in_background()
    if block:
        page.block_thread()
    return page
