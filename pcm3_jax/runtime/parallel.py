"""Maps per-device functions over devices and processes; the only module that does so.

A per-device function takes (replicated, frames, batch) and returns replicated outputs; collectives
inside it use the axis `AXIS`.

Example:
  devices = Devices("shard_map")
  step = devices.map(function, frames_sharded=False)
  state = step(devices.replicate(state), frames, devices.shard(batch))
"""

from __future__ import annotations

import ctypes
import re
import signal
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pcm3_jax.errors import UserError

AXIS = "data"

# Seconds without a heartbeat after which a process counts as dead, and seconds that a process waits
# for the others at shutdown.  With these values every process detects a failure within a minute.
_HEARTBEAT, _SHUTDOWN = 30, 20
# Matches errors of Gloo, NCCL and the coordination service about a lost process, but not NCCL's
# network and driver errors.
_GONE = re.compile(
    "gloo|remote process|coordination|heartbeat|barrier|connection (closed|reset)|UNAVAILABLE",
    re.IGNORECASE,
)


class Devices:
    """All devices of all processes as one data-parallel axis.

    Attributes:
      kind: "pmap" or "shard_map".
      count: number of devices over all processes.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.count = jax.device_count()
        # In process order, as `jax.pmap` and `local_rows` assume; `jax.make_mesh` may reorder them
        # to suit the interconnect.
        devices = sorted(jax.devices(), key=lambda device: device.process_index)
        self._mesh = Mesh(np.array(devices), (AXIS,))

    def check_divides(self, key: str, batch_size: int) -> None:
        """Raises UserError unless ``batch_size`` (``config.KEY``) is a multiple of ``count``."""
        if batch_size % self.count:
            raise UserError(
                f"config.{key} is {batch_size}, which does not divide over {self.count} devices; "
                f"choose a multiple of {self.count}."
            )

    def fitting(self, batch_size: int, count: int) -> int:
        """The smaller of ``batch_size`` and ``count`` rounded up to a multiple of the devices."""
        return min(batch_size, -(-count // self.count) * self.count)

    def local_rows(self, batch_size: int) -> np.ndarray:
        """Positions in the global batch of this process's rows, in the order of its devices."""
        local = batch_size // jax.process_count()
        return np.arange(local) + jax.process_index() * local

    @property
    def local_count(self) -> int:
        return jax.local_device_count()

    def replicate(self, tree: Any) -> Any:
        """Puts a tree that is the same in every process on every device."""
        sharding = NamedSharding(self._mesh, PartitionSpec())

        def everywhere(x: Any) -> jax.Array:
            if jax.process_count() == 1 or not getattr(x, "is_fully_addressable", True):
                return jax.device_put(x, sharding)
            # `jax.device_put` would gather every process's copy on every device to check that they
            # are equal, which takes too much memory for a data set.
            host = np.asarray(x)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(everywhere, tree)

    def shard(self, tree: Any) -> Any:
        """Shards this process's rows, (rows, …) in every leaf, over its devices."""
        if self.kind == "pmap":
            return jax.tree.map(lambda x: x.reshape(self.local_count, -1, *x.shape[1:]), tree)
        sharding = NamedSharding(self._mesh, PartitionSpec(AXIS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)

    def map(self, function: Callable, *, frames_sharded: bool, donate: bool = False) -> Callable:
        """Maps a per-device function over all devices.

        Args:
          function: (replicated, frames, batch) → replicated outputs, on one device.
          frames_sharded: whether ``frames`` is sharded like the batch; otherwise it is replicated.
          donate: whether to donate the buffers of the first argument.

        Returns:
          The compiled function of global arrays.
        """
        donated = 0 if donate else ()
        replicated, sharded = PartitionSpec(), PartitionSpec(AXIS)
        if self.kind == "pmap":
            mapped = jax.pmap(
                function,
                axis_name=AXIS,
                in_axes=(None, 0 if frames_sharded else None, 0),
                out_axes=None,
                donate_argnums=donated,
            )
            if jax.process_count() == 1:
                return mapped
            # With several processes `jax.pmap` returns arrays of the local devices only.
            return lambda *args: multihost_utils.host_local_array_to_global_array(
                mapped(*args), self._mesh, replicated
            )
        mapped = jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=(replicated, sharded if frames_sharded else replicated, sharded),
            out_specs=replicated,
            # With check_vma, autodiff itself sums the gradient of replicated parameters over the
            # devices, and the step's pmean would return that sum instead of the mean.
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=donated)


def wait_for_all(name: str) -> None:
    """Barrier: returns once every process has called it with the same ``name``."""
    multihost_utils.sync_global_devices(name)


def agreed(here: bool) -> bool:
    """Whether ``here`` is true in all processes; all of them must call this."""
    return bool(np.all(multihost_utils.process_allgather(np.array(here))))


def join_processes(*address: Any) -> None:
    """Joins this process to the others of a run (`jax.distributed.initialize`).

    Args:
      address: "host:port" of process 0, the number of processes and the index of this one; empty
        on a Cloud TPU, where JAX finds them itself.

    Raises:
      UserError: no address was given and this is not a Cloud TPU.
    """
    timeouts: dict[str, Any] = {
        "heartbeat_timeout_seconds": _HEARTBEAT,
        "shutdown_timeout_seconds": _SHUTDOWN,
    }
    if address:
        # Without this, JAX uses only one GPU per process when it detects Slurm or MPI.
        timeouts["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(*address, **timeouts)
    except ValueError as error:
        raise UserError("--coordinator=auto finds no Cloud TPU; use host:port.") from error


def lost_process(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, means that another process of the run is gone."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return bool(_GONE.search(str(error)))
        error = error.__cause__ or error.__context__
    return False


def on_abort(leave: Callable[[], None]) -> None:
    """Registers ``leave`` as the handler for the runtime's abort (SIGABRT) of this process.

    When another process is lost, the coordination service calls abort() from its own thread, and
    JAX has no option to change that.  A handler from Python's ``signal`` module would never run,
    because it runs in the main thread, which is waiting for the lost process.
    """
    global _on_abort
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: leave())
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


# Keeps the handler alive; the C library holds no reference.
_on_abort = None
