"""Training before the conversion, with tensorflow-model-optimization: quantization-aware, pruned, clustered."""
