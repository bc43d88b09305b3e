"""Small accelerators: what each would do with a .tflite file. Neither Keras nor TensorFlow is imported."""
