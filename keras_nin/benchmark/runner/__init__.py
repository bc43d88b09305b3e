"""What runs beside the runtime: in a child process here, or on a device that has nothing of keras-nin.

These modules need the Python standard library, NumPy and ai_edge_litert, and of keras_nin only each other and
`keras_nin.tflite.host`: `keras_nin.benchmark.devices` packs them into one file that a device runs.
"""
