"""What runs a model: one contract (`base`), one file per runtime, and the way to ONNX artifacts."""
