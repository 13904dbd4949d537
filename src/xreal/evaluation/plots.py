"""The plots of the report, as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from xreal.evaluation.spectrum import radial_power

__all__ = ["plot_similarities", "plot_spectra"]


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "xreal"}):  # the same numbers give the same file
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def plot_spectra(images: Mapping[str, np.ndarray]) -> bytes:
    """Draw the mean radial power spectrum of each set of images (N, H, W)."""
    figure = Figure(figsize=(7, 3.5))
    axes = figure.subplots()
    for name, some in images.items():
        frequencies, power = radial_power(some)
        axes.plot(frequencies, power.mean(axis=0), label=name, linewidth=1.2)
    axes.set(xlabel="cycles per pixel", ylabel="power, dB")
    axes.legend(fontsize=8)
    return _svg(figure)


def plot_similarities(similarities: Mapping[str, np.ndarray], limit: float) -> bytes:
    """Draw how similar each image is to its nearest training image, per set, and from where on it counts as a copy."""
    figure = Figure(figsize=(7, 3.5))
    axes = figure.subplots()
    edges = np.linspace(min(float(values.min()) for values in similarities.values()), 1, 60).tolist()
    for name, values in similarities.items():
        axes.hist(values, bins=edges, density=True, histtype="step", label=name)
    axes.axvline(limit, color="black", linestyle=":", label="counts as a copy from here on")
    axes.set(xlabel="similarity to the nearest training image", ylabel="density")
    axes.legend(fontsize=8)
    return _svg(figure)
