"""What happens around every epoch."""

import keras


class Keep(keras.callbacks.Callback):
    """Order the batches by epoch, and keep the state after it."""

    def __init__(self, state, batches, on_epoch=None):
        super().__init__()
        self.state, self.batches, self.on_epoch = state, batches, on_epoch

    def on_epoch_begin(self, epoch, logs=None):
        """Give the batches the order of this epoch, also where a run is taken up again."""
        self.batches.start(epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Store the state first, so that nothing is lost where `on_epoch` ends in an exception."""
        entry = self.state.add(self.model, logs)
        if self.on_epoch:
            self.on_epoch(epoch + 1, entry)
