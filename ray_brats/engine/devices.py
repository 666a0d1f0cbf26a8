"""The GPUs of a process: those that Ray gave it, against those that TensorFlow sees.

Ray counts a GPU where a node says that it has one. For TensorFlow a driver and CUDA's libraries
must be there too. Without, everything works, on the CPU, and holds a GPU meanwhile.

Ray is loaded where it is asked: help texts need the names of devices alone.
"""

from __future__ import annotations

from typing import Literal

from ray_brats.errors import StageFailed

Device = Literal["auto", "gpu", "cpu"]
"""What networks run on; `auto`: GPUs where there are any at the start of a stage."""

REMEDY = (
    "install NVIDIA's driver and `tensorflow[and-cuda]` of this version on every node with GPUs "
    "(`ray-brats doctor` looks at each), or start nodes with --num-gpus 0 to work on their CPUs"
)


def granted() -> list[str]:
    """Ids of the GPUs that Ray gave this process; none outside of a worker."""
    import ray

    if not ray.is_initialized():
        return []
    ids = ray.get_runtime_context().get_accelerator_ids()
    return [str(number) for number in ids.get("GPU", [])]


def check(seen: int) -> None:
    """Do nothing where TensorFlow sees as many GPUs as Ray gave.

    Args:
        seen: how many TensorFlow sees in this process.

    Raises:
        StageFailed: Ray gave one, and there are fewer.
    """
    given = granted()
    if seen >= len(given):
        return
    import ray

    node = ray.util.get_node_ip_address()
    raise StageFailed(
        f"Ray gave this process GPU {', '.join(given)} of node {node}, and TensorFlow sees "
        f"{seen or 'none'} there: {REMEDY}"
    )
