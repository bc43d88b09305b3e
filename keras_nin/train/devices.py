"""Training on several devices and hosts that share each batch, with what Keras's backend has for it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import keras

from keras_nin._compat.keras import fit_on_several_hosts, without_tensorflow
from keras_nin.errors import check_whole_number, expected_error, input_error

if TYPE_CHECKING:
    import tensorflow as tf

Devices: TypeAlias = int | Literal["all"]


@contextlib.contextmanager
def share_batches(devices: Devices = 1) -> Iterator[int]:
    """Let models that are built in the block train on `devices` devices, and yield how many that are.

    Accelerators count where there are any, otherwise CPU devices. On JAX, processes that Keras's variables
    KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID name train together, with all devices of all. On
    TensorFlow, those do that the variable TF_CONFIG names.

    Raises:
        InputError: more devices than there are, a backend that Keras does not distribute, or a TF_CONFIG that is not
            one of a cluster of workers.
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
        strategy = _build_strategy(devices)
        with strategy.scope():
            yield strategy.num_replicas_in_sync
    else:
        expected = "one device, or Keras on JAX or TensorFlow (KERAS_BACKEND=jax)"
        raise input_error(expected, f"{devices} with KERAS_BACKEND={backend}", argument="devices")


def _join_processes() -> None:
    address = os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES")
    if address is None:
        return
    import jax  # pyright: ignore[reportMissingImports]

    if not jax.distributed.is_initialized():
        counts = [os.environ.get(f"KERAS_DISTRIBUTION_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID")]
        if not all(text and text.isdecimal() for text in counts):
            expected = "whole numbers in KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID"
            raise input_error(expected, counts, argument="devices")
        count, number = (int(text or 0) for text in counts)
        jax.distributed.initialize(address.split(",")[0], count, number)


def _build_strategy(devices: Devices) -> tf.distribute.Strategy:
    """Return TensorFlow's strategy for the devices of this host, or of all hosts that TF_CONFIG names."""
    import tensorflow as tf

    if _count_tasks(os.environ.get("TF_CONFIG")) > 1:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        replicas = strategy.num_replicas_in_sync
        if devices not in ("all", replicas):
            raise expected_error("devices", f"to be all or {replicas}, those of all hosts in TF_CONFIG", devices)
        return strategy
    logical: Any = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in logical[: _count(devices, len(logical))]])


def _count_tasks(config: str | None) -> int:
    """Return how many processes TF_CONFIG names; `InputError` where this one is not one of its workers."""
    if not config:
        return 1
    try:
        document = json.loads(config)
        cluster, task = document.get("cluster", {}), document.get("task", {})
        if not cluster:
            return 1
        tasks = [(kind, number) for kind, addresses in cluster.items() for number in range(len(addresses))]
        if set(cluster) <= {"chief", "worker"} and (task["type"], int(task["index"])) in tasks:
            return len(tasks)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    expected = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}} in TF_CONFIG'
    raise input_error(expected, config, argument="devices")


def _hosts_strategy() -> tf.distribute.MultiWorkerMirroredStrategy | None:
    """Return TensorFlow's strategy where several hosts train together, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    return strategy if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else None


def batch_share() -> tuple[int, int]:
    """Return which part of each batch this process draws, as `process_share`; TensorFlow divides whole batches."""
    return (0, 1) if keras.backend.backend() == "tensorflow" else process_share()


def process_share() -> tuple[int, int]:
    """Return (number of this process, number of processes) of those that train together: (0, 1) for one alone."""
    strategy = _hosts_strategy()
    if strategy is not None:
        resolver: Any = strategy.cluster_resolver
        tasks = resolver.cluster_spec().as_dict()
        has_chief = "chief" in tasks and resolver.task_type == "worker"
        return resolver.task_id + has_chief, sum(map(len, tasks.values()))
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return 0, 1
    import jax  # pyright: ignore[reportMissingImports]

    return jax.process_index(), jax.process_count()


def is_first_process() -> bool:
    """Whether this process writes the files of a run."""
    return process_share()[0] == 0


def synchronize(name: str) -> None:
    """Wait until all processes that train together are at the point `name`."""
    strategy = _hosts_strategy()
    if strategy is not None:
        import tensorflow as tf

        def add() -> Any:
            context: Any = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.ones(()))

        tf.function(lambda: strategy.run(add))()
    elif process_share()[1] > 1:
        from jax.experimental import multihost_utils  # pyright: ignore[reportMissingImports]

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


def can_keep_images() -> bool:
    """Whether uint8 images can be a weight, which several hosts on TensorFlow do not exchange."""
    return _hosts_strategy() is None


def prepare_fit(model: keras.Model) -> None:
    """Let `model.fit` run on the devices that `share_batches` chose."""
    if _hosts_strategy() is not None:
        fit_on_several_hosts(model)


def predict_here(model: keras.Model) -> Callable[[Any], Any]:
    """Return a function from images (N, H, W, C) to a model's outputs that this process computes alone."""
    if _hosts_strategy() is None:
        quiet: Any = {"verbose": 0}
        return lambda images: model.predict(images, batch_size=len(images), **quiet)
    import tensorflow as tf

    run = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    return lambda images: keras.ops.convert_to_numpy(run(tf.constant(images)))


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
            import torch  # pyright: ignore[reportMissingImports]

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
