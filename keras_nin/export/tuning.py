"""What is done to a calibrated float file before it is quantised."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How to choose ranges and weights; without arguments what the converter does."""

    def apply(self, content, samples):
        """Return the calibrated file with other ranges, weights or biases.

        Args:
            content: bytes of a float .tflite file whose tensors have the least and largest value that they took.
            samples: as `keras_nin.export.quantizer.Quantizer` takes them.
        """
        return content

    def to_json(self):
        """Return the record as a dictionary."""
        return dataclasses.asdict(self)
