"""Where the steps run: on one device, on all of a machine, on several machines or on a TPU."""

import contextlib
import errno
import json
import os
from typing import NamedTuple

import keras
import tensorflow as tf

from training import topologies

LOST = (tf.errors.OpError, RuntimeError)  # What a step raises if its peers are gone.
DISK = [
    os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
]
STRATEGIES = ("default", "mirrored", "multi_worker", "tpu", "data_parallel")
CLUSTER = (
    '{"cluster": {"worker": ["HOST1:2222", "HOST2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


class Devices(NamedTuple):
    """The devices of a run.

    Args:
        strategy: a `tf.distribute` strategy, or `None`.
        replicas: number of equal parts of a batch.
        process: index of this process. The first one writes the files.
        processes: number of processes that run the same steps.
        even: whether every batch must divide into equal parts.
        chips: devices that the step is compiled for, if they are not there to run it.
    """

    strategy: object = None
    replicas: int = 1
    process: int = 0
    processes: int = 1
    even: bool = False
    chips: tuple = ()

    @property
    def first(self):
        return self.process == 0

    def scope(self):
        """The context to build models in."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def agree(self, number, message):
        """Wait until all processes are here; raise `message` unless they have the same number."""
        if self.processes == 1:
            return
        total, replicas = sums(self.strategy, [float(number), 1.0] if self.first else [0.0, 0.0])
        if any(sums(self.strategy, [float(number != total / replicas)])):
            raise ValueError(message)


def cause(error):
    """Say what a full disk or memory did to a step or to TensorBoard; `None` for other errors."""
    for line in str(error).splitlines():
        if any(words in line for words in DISK):
            return line.rpartition("}} ")[2]
    exhausted = isinstance(error, tf.errors.ResourceExhaustedError)
    if exhausted or "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"Out of memory: {str(error).splitlines()[0].rpartition('}} ')[2]}\nTry a smaller "
            "--batch_size or --model, ghost batches, or --mixed_precision."
        )
    return None


def sums(strategy, numbers):
    """Each number's sum over all replicas, or over all processes on JAX."""
    if strategy is None:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(tf.constant(numbers).numpy()).sum(0)

    def reduced():
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(numbers))

    return strategy.experimental_local_results(strategy.run(tf.function(reduced)))[0].numpy()


def opened(f):
    """Open the devices that the options `f` name.

    Raises:
        ValueError: If they do not exist, with what is missing.
    """
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # tf.data leaves the GPU to the backend.
    elif f.devices > 1:
        logical = [tf.config.LogicalDeviceConfiguration()] * f.devices
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], logical
        )
    tf.get_logger().setLevel("WARNING")  # MirroredStrategy would log every variable.
    if f.compile_only:
        return absent(f.topology)
    return {
        "default": lambda: Devices(),
        "mirrored": lambda: mirrored(f.devices),
        "multi_worker": multi_worker,
        "tpu": lambda: tpu(f.tpu),
        "data_parallel": lambda: data_parallel(f.devices),
    }[f.strategy]()


def mirrored(devices):
    kind = "GPU" if devices == 1 and tf.config.list_physical_devices("GPU") else "CPU"
    names = [device.name for device in tf.config.list_logical_devices(kind)]
    return Devices(tf.distribute.MirroredStrategy(names), len(names))


def multi_worker():
    """A replica on each device of each worker; TF_CONFIG names the workers."""
    given = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(given)
        workers, task = config["cluster"]["worker"], config["task"]
        known = task["type"] == "worker" and workers[task["index"]]
    except (ValueError, LookupError, TypeError):
        known = False
    if not known:
        raise ValueError(
            "--strategy=multi_worker reads the workers, and which of them this is, from the "
            f"environment: TF_CONFIG='{CLUSTER}'. Received: TF_CONFIG='{given}'"
        )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return Devices(strategy, strategy.num_replicas_in_sync, task["index"], len(workers))


def tpu(name):
    """A replica on each core of a Cloud TPU. `name` is "local" on a TPU VM."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise ValueError(
            f"--strategy=tpu found no TPU '{name}': on a TPU VM pass --tpu=local, and install the "
            f"TensorFlow that its image brings (docs/tpu.md). {f'{error}'.splitlines()[0]}"
        ) from error
    return Devices(strategy, strategy.num_replicas_in_sync, even=True)


def data_parallel(devices):
    """JAX: batches in equal parts on all devices, of all processes if the environment names them.

    The environment is that of `keras.distribution.initialize`, KERAS_DISTRIBUTION_*.
    """
    import jax

    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
    keras.distribution.set_distribution(DataParallel())
    here = jax.process_index(), jax.process_count()
    return Devices(None, jax.device_count(), *here, even=here[1] > 1)


def absent(topology):
    """The chips of a topology; no process runs on them."""
    chips = tuple(topologies.chips(topology))
    hosts = {chip.process_index for chip in chips}
    return Devices(replicas=len(chips), even=len(hosts) > 1, chips=chips)


class DataParallel(keras.distribution.DataParallel):
    """Keras' own, except that one process copies an uneven batch whole to each of its devices."""

    def get_data_layout(self, data_shape):
        layout = super().get_data_layout(data_shape)
        if data_shape[0] % self.device_mesh.devices.size and self.num_processes == 1:
            axes = [None] * len(data_shape)
            return keras.distribution.TensorLayout(axes, self.device_mesh)
        return layout
