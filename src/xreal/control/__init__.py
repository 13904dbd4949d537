"""Anatomy and pathology control of a diffusion model's latents; knows no files, no text and no data sets."""
