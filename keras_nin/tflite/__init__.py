"""Reading and running .tflite files, with neither Keras nor TensorFlow."""
