"""How good are a model's pictures, and what do they cost? Any diffusers folder, its tiers compared."""
