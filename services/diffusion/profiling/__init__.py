"""`sangsang profile`: how long a model's stages take on this machine, alone and together."""
