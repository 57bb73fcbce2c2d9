"""A model for other programs: a MONAI bundle with safetensors, torch.export and ONNX, which agree."""
