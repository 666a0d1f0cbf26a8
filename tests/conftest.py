"""Phantom cohorts, damaged files, and one small Ray for the tests that need engines."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before anything imports Ray or TensorFlow.
os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",
}
os.environ.pop("RAY_ADDRESS", None)

import faulty_s3
import hypothesis
import nibabel as nib
import numpy as np
import pytest

from ray_brats.cases import phantom

# A shell without job control starts what runs in the background with SIGINT ignored, which
# processes inherit: tests that press Ctrl-C would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's; what may take how long is said by tests of that.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

SHAPE_VOX = (64, 64, 48)
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out files whose every test needs an engine or a browser that is not wanted.

    They import it to be collected, which takes each process of `.ci/check` seconds.
    """
    unwanted = re.findall(r"\bnot (tf|ray|browser)\b", str(config.option.markexpr))
    if not unwanted or collection_path.suffix != ".py":
        return None
    marks = rf"^pytestmark = .*\bmark\.(?:{'|'.join(unwanted)})\b"
    return True if re.search(marks, collection_path.read_text("utf-8"), re.MULTILINE) else None


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small phantoms; read only."""
    folder = tmp_path_factory.mktemp("cohort")
    phantom.write_cohort(folder, cases=5, shape_vox=SHAPE_VOX)
    return folder


@pytest.fixture(scope="session")
def whole_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one phantom; read only."""
    folder = tmp_path_factory.mktemp("whole")
    (name,) = phantom.write_cohort(folder, cases=1, shape_vox=SHAPE_VOX)
    return folder / name


@pytest.fixture
def one_case(whole_case: Path, tmp_path: Path) -> Path:
    """The folder of one phantom, to be damaged; a copy, since drawing one takes longer."""
    folder = tmp_path / "one" / whole_case.name
    shutil.copytree(whole_case, folder, copy_function=shutil.copy)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real cases, where they are there."""
    if not REAL.is_dir():
        pytest.skip("no real cases beside the checkout (../shared/data)")
    return REAL


@pytest.fixture
def bucket() -> Iterator[str]:
    """An empty bucket of a server on loopback."""
    with s3_server("127.0.0.1", "cohorts"):
        yield "s3://cohorts"


@contextlib.contextmanager
def s3_server(address: str, bucket: str) -> Iterator[dict[str, str]]:
    """A server with one empty bucket; what leads to it is in the environment, and comes back."""
    host, port = faulty_s3.moto(address)
    environment = faulty_s3.credentials(f"http://{host}:{port}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        # Moto keeps its buckets in the process.
        faulty_s3.ask("POST", "/moto-api/reset", address)
        faulty_s3.ask("PUT", f"/{bucket}", address)
        # Filesystems are kept by fsspec, with the endpoint of an earlier test's server.
        faulty_s3.forget_clients()
        yield environment
        faulty_s3.forget_clients()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, where there is one.

    Of a module: while it runs its event loop is this thread's, and no other can be.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    binary = next(filter(None, map(shutil.which, names)), None)
    if binary is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=20_000)
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    # Only the 3-D view needs WebGL; it draws in software.
    software = ["--disable-gpu", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=binary, args=["--no-sandbox", *quiet, *software]
        )
        yield browser
        browser.close()


def file_of(case: Path, kind: str) -> Path:
    """The file of one kind in the folder of a case."""
    return case / f"{case.name}_{kind}.nii.gz"


def rewrite(path: Path, change: object) -> None:
    """Load a file, apply `change` to its float32 voxels, write it back with its affine."""
    image = nib.load(path)
    voxels = change(np.asarray(image.dataobj, np.float32))  # type: ignore[operator]
    nib.save(nib.Nifti1Image(np.asarray(voxels, np.float32), image.affine), path)


def touch(folder: Path, *names: str) -> Path:
    """Make empty files below a folder, which comes back."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder
