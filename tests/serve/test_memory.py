"""What a case takes of memory in each process of a service: below what the manual states."""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import psutil
import pytest

pytest.importorskip("tensorflow")

from ray_brats import arrays
from ray_brats.engine import cluster
from ray_brats.model import card
from ray_brats.serve import deploy
from ray_brats.serve import settings as deployments

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.slow]
URL = "/v1/segmentations"
BRATS, LARGEST = (240, 240, 155), (320, 320, 312)
"""A scan of the challenge, and one just below the most voxels that are taken."""
STATED_MIB = {"model-default": (1536, 2560), "ingress": (256, 512), "jobs": (192, 192)}
"""Most that a process has, by its name: over a scan of the challenge, and over the largest."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of the starter model."""
    settings = deployments.ServeSettings(
        models={"default": (card.STARTER,)},
        state=deployments.state_of(str(tmp_path_factory.mktemp("state"))),
    )
    port = deployments.free_port("127.0.0.1", 0)
    with cluster.running() as there:
        fitted = deployments.fitting(settings, there, None)
        with deploy.served(fitted, port=port) as found:
            yield found


def parts(shape: tuple[int, int, int], slope: float) -> dict[str, tuple[str, bytes]]:
    """A brain of noise in three modalities, of bytes that the header scales where a slope is."""
    brain, files = arrays.ellipsoid(shape), {}
    for number, kind in enumerate(("t1ce", "t2", "flair")):
        values = np.random.default_rng(number).integers(1, 200, shape)
        stored = np.where(brain, values, 0).astype(np.uint8 if slope else np.int16)
        content = bytearray(nib.Nifti1Image(stored, np.diag([-1.0, -1, 1, 1])).to_bytes())
        content[112:120] = np.array([slope, 0], "<f4").tobytes()
        files[kind] = (f"{kind}.nii.gz", gzip.compress(bytes(content), 1))
    return files


@contextlib.contextmanager
def peaks() -> Iterator[dict[str, float]]:
    """The most MiB of its own that each process had inside, by what it does."""
    found: dict[str, float] = dict.fromkeys(STATED_MIB, 0.0)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for process in psutil.Process(os.getpid()).children(recursive=True):
                with contextlib.suppress(psutil.Error, IndexError):
                    title, memory = process.cmdline()[0], process.memory_info()
                    for name in STATED_MIB:
                        if f"ray-brats:{name}" in title:
                            own = (memory.rss - memory.shared) / 2**20
                            found[name] = max(found[name], own)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("slope", [0.0, 0.37], ids=["int16", "scaled bytes"])
@pytest.mark.parametrize(
    ("shape", "place"), [(BRATS, 0), (LARGEST, 1)], ids=["BraTS", "the largest"]
)
def test_no_process_takes_more_than_is_stated(
    url: str, shape: tuple[int, int, int], place: int, slope: float
) -> None:
    body = parts(shape, slope)
    with peaks() as found:
        answer = httpx.post(f"{url}{URL}", files=body, timeout=900)
    assert answer.status_code == 200, answer.text
    told = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in found.items())
    sys.stdout.write(f"{'×'.join(map(str, shape))}, slope {slope}: {told}\n")
    assert all(found.values())
    for name, stated in STATED_MIB.items():
        assert found[name] < stated[place], told


def test_one_voxel_too_many_is_refused_before_anything_is_read(url: str, tmp_path: Path) -> None:
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.diag([-1.0, -1, 1, 1])).header
    header.set_data_shape((320, 320, 313))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    content = gzip.compress(header.binaryblock + bytes(5000))
    with peaks() as found:
        answer = httpx.post(
            f"{url}{URL}",
            files={kind: (f"{kind}.nii.gz", content) for kind in ("t1ce", "t2", "flair")},
        )
    assert answer.status_code == 413
    assert found["ingress"] < STATED_MIB["ingress"][1]
