"""What the Edge TPU compiler makes of a .tflite file, predicted from the file alone."""

from keras_nin.edge.edgetpu.judge import judge
from keras_nin.edge.edgetpu.records import Failure, Memory, OperatorVerdict, Verdict

__all__ = ["Failure", "Memory", "OperatorVerdict", "Verdict", "judge"]
