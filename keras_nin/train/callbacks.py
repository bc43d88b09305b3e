"""What is written after every epoch."""

import json

import keras

from keras_nin import files


class Keep(keras.callbacks.Callback):
    """Keep the weights of the best epoch (validation accuracy, then loss) and the history, each whole at any time."""

    def __init__(self, folder, batches, on_epoch=None):
        super().__init__()
        self.path = folder / "history.json"
        self.best = folder / "best.weights.h5"
        self.batches = batches
        self.on_epoch = on_epoch
        self.history = json.loads(self.path.read_text()) if self.path.exists() else []

    def on_epoch_begin(self, epoch, logs=None):
        """Give the batches the order of this epoch, also where a run is taken up again."""
        self.batches.start(epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Store the weights where they are the best so far, then the history."""
        entry = {"epoch": epoch + 1} | {key: float(value) for key, value in logs.items()}
        earlier = self.history[:epoch]
        if all(_score(entry) > _score(other) for other in earlier):
            with files.replacing(self.best) as path:
                self.model.save_weights(path)
        self.history = [*earlier, entry]
        files.write(self.path, files.to_json(self.history))
        if self.on_epoch:
            self.on_epoch(epoch + 1, entry)


def _score(entry):
    return entry["val_accuracy"], -entry["val_loss"]
