"""Training on several devices that share each batch: DataParallel on JAX, MirroredStrategy on TensorFlow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import keras

from keras_nin._compat.keras import without_tensorflow
from keras_nin.errors import check_whole_number, expected_error, input_error

Devices: TypeAlias = int | Literal["all"]


@contextlib.contextmanager
def share_batches(devices: Devices = 1) -> Iterator[int]:
    """Let models that are built in the block train on `devices` devices, and yield how many that are.

    Accelerators count where there are any, otherwise CPU devices. On JAX, processes that Keras's variables
    KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID name train together, with all devices of all.

    Raises:
        InputError: more devices than there are, or a backend that Keras does not distribute.
    """
    backend = keras.backend.backend()
    if devices == 1:
        yield 1
    elif backend == "jax":
        _join_processes()
        names = keras.distribution.list_devices()
        names = names[: _count(devices, len(names))]
        # The batches are those of this process already.
        distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
        keras.distribution.set_distribution(distribution)
        try:
            yield len(names)
        finally:
            keras.distribution.set_distribution(None)
    elif backend == "tensorflow":
        import tensorflow as tf

        logical: Any = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in logical[: _count(devices, len(logical))]])
        with strategy.scope():
            yield strategy.num_replicas_in_sync
    else:
        expected = "one device, or Keras on JAX or TensorFlow (KERAS_BACKEND=jax)"
        raise input_error(expected, f"{devices} with KERAS_BACKEND={backend}", argument="devices")


def _join_processes() -> None:
    address = os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES")
    if address is None:
        return
    import jax

    if not jax.distributed.is_initialized():
        counts = [os.environ.get(f"KERAS_DISTRIBUTION_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID")]
        if not all(text and text.isdecimal() for text in counts):
            expected = "whole numbers in KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID"
            raise input_error(expected, counts, argument="devices")
        count, number = (int(text or 0) for text in counts)
        jax.distributed.initialize(address.split(",")[0], count, number)


def process_share() -> tuple[int, int]:
    """Return (number of this process, number of processes) of those that train together: (0, 1) for one alone."""
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def is_first_process() -> bool:
    """Whether this process writes the files of a run."""
    return process_share()[0] == 0


def synchronize(name: str) -> None:
    """Wait until all processes that train together are at the point `name`."""
    if process_share()[1] > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def on_one_device(model: keras.Model) -> Iterator[keras.Model]:
    """Yield a model that is trained on several devices as one that runs on batches of any size in the block."""
    distribution = keras.distribution.distribution() if keras.backend.backend() == "jax" else None
    if distribution is None:
        yield model
        return
    keras.distribution.set_distribution(None)
    try:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        yield copy
    finally:
        keras.distribution.set_distribution(distribution)


@contextlib.contextmanager
def prepared_backend() -> Iterator[None]:
    """Let the backend compute the same sums in the same order while the block runs; JAX does on a CPU.

    Backends other than TensorFlow do without it.
    """
    backend = keras.backend.backend()
    with contextlib.ExitStack() as stack:
        if backend == "tensorflow":
            from keras_nin._compat.tensorflow import deterministic_ops

            stack.enter_context(deterministic_ops())
        else:
            stack.enter_context(without_tensorflow())
        if backend == "torch":
            import torch

            stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
            torch.use_deterministic_algorithms(True, warn_only=True)
        yield


def _count(devices: Devices, available: int) -> int:
    if devices == "all":
        return available
    if check_whole_number("devices", devices) > available:
        hint = "With KERAS_BACKEND=jax, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of the CPU"
        raise expected_error("devices", f"to be at most {available}, the devices here. {hint}", devices)
    return devices


def count_replicas() -> int:
    """Return how many replicas of TensorFlow share the gradients of a step; 1 on another backend."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def build_adamw(learning_rate: Any, weight_decay: float, clip_norm: float) -> keras.optimizers.AdamW:
    """Return AdamW that clips the norm of the gradient over all weights and all devices at `clip_norm`; 0: not."""
    options: Any = {"weight_decay": weight_decay, "global_clipnorm": clip_norm or None}
    if not clip_norm or count_replicas() == 1:
        return keras.optimizers.AdamW(learning_rate, **options)
    import tensorflow as tf

    class ReplicatedAdamW(keras.optimizers.AdamW):
        """Clips the sum of the replicas' gradients, where Keras clips those of each replica before it adds them."""

        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            context: Any = tf.distribute.get_replica_context()
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, list(grads))
            clipped, _ = tf.clip_by_global_norm(total, clip_norm)
            # Keras adds them again.
            shares = [gradient / context.num_replicas_in_sync for gradient in clipped]
            return super().apply(shares, trainable_variables)

    return ReplicatedAdamW(learning_rate, **options)
