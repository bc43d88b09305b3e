"""What small accelerators make of a .tflite file, from the file alone and from the real tools.

Neither Keras nor TensorFlow is imported.
"""
