"""Networks: pixels <-> latents, prompt -> embeddings, and the U-Net with its noise schedule."""
