"""Last stage: latents to an encoded picture."""
