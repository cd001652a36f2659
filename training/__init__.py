"""Train a model, check it, and publish it as a verified ONNX release."""
