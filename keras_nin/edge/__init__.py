"""What small accelerators make of an int8 .tflite file, from the file alone and from the real tools."""
