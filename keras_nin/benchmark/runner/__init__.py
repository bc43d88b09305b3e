"""What runs beside the runtime, here or packed for a device with Python 3.10, NumPy and ai_edge_litert."""
