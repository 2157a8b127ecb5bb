"""What a network moves to and from a GPU's memory: `sangsang traffic`. Needs torch and onnx."""
