"""What a model folder says about itself, read without torch, diffusers or ONNX Runtime."""
