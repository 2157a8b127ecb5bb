"""From a plain graph to one with fused nodes of our own domain. Needs onnx and onnx_ir."""
