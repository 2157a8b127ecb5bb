"""How good a model's pictures are and what they cost: any diffusers folder, its tiers compared."""
