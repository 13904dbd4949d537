"""``xreal studio``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["studio"]


def studio(
    model: Annotated[str, typer.Option(help="Bundled model or model folder.")] = "cxr-256",
    host: Annotated[
        str, typer.Option(help="Address to listen at. 0.0.0.0 lets others in, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 7860,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a web page on this computer that draws chest X-rays: paint organs and findings, look, download."""
    from xreal.app.server import serve

    serve(model, host, port, open_browser)
