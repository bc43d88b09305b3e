"""What runs beside the runtime: in a child process here, or on a device that lacks keras-nin.

These modules need Python 3.10, NumPy and ai_edge_litert, and of keras_nin only each other, `keras_nin.child_runtime`
and `keras_nin.tflite.host`: `keras_nin.benchmark.devices` packs them into one file that a device runs.
"""
