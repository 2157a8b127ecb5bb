"""The diffusion stage: embeddings and noise in, latents out."""
