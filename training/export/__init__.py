"""One ONNX file that is proved to answer as PyTorch does, and its smaller variants."""
