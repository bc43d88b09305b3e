"""What the Edge TPU compiler makes of a .tflite file, predicted from the file alone."""

from keras_nin.edge.edgetpu.records import CompileFailure, EdgeTPUResult, OperatorVerdict, ParameterMemory
from keras_nin.edge.edgetpu.verdict import check_edgetpu

__all__ = ["CompileFailure", "ParameterMemory", "OperatorVerdict", "EdgeTPUResult", "check_edgetpu"]
