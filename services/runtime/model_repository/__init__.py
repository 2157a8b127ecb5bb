"""A model's engines as a model repository of NVIDIA's Triton Inference Server."""
