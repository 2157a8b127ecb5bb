"""Second stage: seeds and pictures to noise and latents."""
