"""Which few timesteps DPM-Solver++ should take: those that leave as much contrast as the data have, coarse and fine.

A solver that takes large steps draws pictures that are too alike and too smooth. By how much, can be worked out for
Gaussian data, whose best denoiser is known: a Fourier mode of the latents with deviation s comes out with a deviation
of g·s. Six steps that lie equally far apart leave g = 0.90 of how bright X-rays are as a whole and 0.60 of their finest
detail; the same number, better placed, 0.96 and 0.69. The networks need not know of it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

__all__ = ["kept_deviation", "placed_timesteps"]

Floats = NDArray[np.float64]

# Deviations of Fourier modes of chest X-rays' latents, in units of the noise's: 13 is the mean of the first channel, 1
# and less what is finer than 8 latents (measured on the NIH X-rays). The finest matter less: most of it is grain.
_DEVIATIONS = np.array([0.5, 0.7, 1.0, 2.0, 4.0, 8.0, 13.0])
_WEIGHTS = np.array([0.2, 0.3, 0.5, 1.0, 1.0, 1.0, 1.0])
_LAST = 100  # of 1,000: nearer the end, networks draw more grain and contrast than X-rays have (docs/log.md)
_FAINTEST = 1e-12  # ᾱ, where a schedule ends without signal
_MOST = 10  # more steps lose nothing that can be seen; they are spread as these are


def kept_deviation(alphas_cumprod: Floats, timesteps: Floats, deviations: Floats = _DEVIATIONS) -> Floats:
    """Return which share of its deviation each mode keeps under DPM-Solver++ (2M, midpoint; arXiv 2211.01095).

    Args:
        alphas_cumprod: ᾱ of every timestep that the network was trained at.
        timesteps: N of them, falling; between two of them ᾱ is interpolated.
        deviations: of the modes, ÷ that of the noise.
    """
    logarithms = np.log(np.maximum(alphas_cumprod, _FAINTEST))
    log_alpha = np.interp(timesteps, np.arange(len(alphas_cumprod)), logarithms)
    signal, noise = np.exp(log_alpha / 2), np.sqrt(-np.expm1(log_alpha))
    half_log_snr = np.log(signal / noise)
    latents = np.ones_like(deviations)  # pure noise, whatever signal the first timestep should have
    before = None
    for i in range(len(timesteps) - 1):
        clean = _denoised(latents, deviations, signal[i], noise[i])
        step = half_log_snr[i + 1] - half_log_snr[i]
        ahead = clean
        if before is not None:
            ahead = clean + (clean - before) * step / (2 * (half_log_snr[i] - half_log_snr[i - 1]))
        latents = noise[i + 1] / noise[i] * latents - signal[i + 1] * np.expm1(-step) * ahead
        before = clean
    return _denoised(latents, deviations, signal[-1], noise[-1]) / deviations


def _denoised(latents: Floats, deviations: Floats, signal: float, noise: float) -> Floats:
    return signal * deviations**2 * latents / ((signal * deviations) ** 2 + noise**2)


@lru_cache(maxsize=64)
def placed_timesteps(alphas_cumprod: tuple[float, ...], steps: int) -> tuple[int, ...]:
    """Choose the timesteps that keep the deviation of all modes best.

    Args:
        alphas_cumprod: ᾱ of every timestep that the network was trained at.
        steps: 1 or more, fewer than there are timesteps.

    Returns:
        Falling timesteps, as many as ``steps``.
    """
    alphas, trained = np.array(alphas_cumprod), len(alphas_cumprod)
    if steps > trained // 10:
        return tuple(int(one) for one in np.linspace(trained - 1, 0, steps).round())
    last, highest = _LAST * trained / 1000, trained - 1.0
    count = min(steps, _MOST)

    def timesteps(logarithms: Floats) -> Floats:
        gaps = np.append(np.exp(logarithms), 1.0)  # from the last to the first, and from there to the highest of all
        upwards = np.append(0.0, np.cumsum(gaps[:-1])) / gaps.sum()
        return (last + (highest - last) * upwards)[::-1]

    def loss(logarithms: Floats) -> Floats:
        lost: Floats = np.sqrt(_WEIGHTS) * np.log(kept_deviation(alphas, timesteps(logarithms)))
        return lost

    placed = np.array([(last + highest) / 2])
    if count > 1:
        placed = timesteps(least_squares(loss, np.zeros(count - 1), xtol=1e-4, ftol=1e-5, max_nfev=60).x)
    if steps > count:
        placed = np.interp(np.linspace(0, 1, steps), np.linspace(0, 1, count), placed)
    whole = np.rint(placed).astype(int)
    for i in range(steps - 2, -1, -1):  # of many steps, two may round to the same
        whole[i] = max(whole[i], whole[i + 1] + 1)
    return tuple(int(one) for one in whole)
