"""How a better model is made: ONNX export, quantization, its proof and publication; it serves nothing."""
