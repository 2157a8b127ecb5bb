"""From a diffusers folder to engines: export, check, store. Needs torch, diffusers and onnx."""
