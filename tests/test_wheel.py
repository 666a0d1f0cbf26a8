"""What a stranger gets: the wheel alone, in an empty environment, on real cases."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_api import PROGRAM, WRONG

from ray_brats.model import card

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.slow, pytest.mark.timeout(1800)]
SOURCE = Path(__file__).resolve().parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""Without what would let the checkout pass for the wheel."""
MOST_WEIGHT_BYTES = 25 * 2**20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    wheels = tmp_path_factory.mktemp("wheels")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(SOURCE))
    (file,) = wheels.glob("ray_brats-*.whl")
    return file


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The folder of the commands of a new environment that has the wheel alone."""
    if not (SOURCE / "ray_brats" / card.STARTER / card.CARD).is_file():
        pytest.skip("this checkout has no starter model")
    return _environment(tmp_path / "venv", str(wheel))


def _environment(folder: Path, *packages: str) -> Path:
    """The folder of the commands of a new environment with these packages."""
    venv.create(folder, with_pip=True)
    commands = folder / "bin"
    _run(str(commands / "pip"), "install", "-q", "-U", "pip")
    _run(str(commands / "pip"), "install", "-q", *packages)
    return commands


def _run(*command: str, cwd: Path | None = None) -> str:
    """What a command says, on either stream."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-5000:]}"
    return done.stdout


def test_the_wheel_alone_segments_two_real_cases_and_tells_how_well(
    installed: Path, real_data: Path, tmp_path: Path
) -> None:
    cases = tmp_path / "cases"
    cases.mkdir()
    originals = sorted((real_data / "brats2018" / "HGG").iterdir())[:2]
    for original in originals:
        (cases / original.name).symlink_to(original)
    masks = tmp_path / "masks"
    said = _run(str(installed / "ray-brats"), "score", str(cases), str(masks), cwd=tmp_path)
    assert "such masks were measured on" in " ".join(said.split())
    assert "research" in said
    for original in originals:
        (mask,) = masks.rglob(f"{original.name}*.nii.gz")
        (truth,) = original.glob("*_seg.nii.gz")
        found = np.asarray(nib.load(mask).dataobj) > 0
        expert = np.asarray(nib.load(truth).dataobj) > 0
        dice = 2 * np.count_nonzero(found & expert) / (found.sum() + expert.sum())
        assert dice >= 0.6, "the starter model must find the whole tumour"


def test_types_of_a_user_program_are_checked_against_the_wheel(wheel: Path, tmp_path: Path) -> None:
    # Only what the types of the door are made of: the rest of an installation has no say in them.
    python = _environment(tmp_path / "venv", "--no-deps", str(wheel), "numpy") / "python"
    (tmp_path / "right.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(WRONG)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"))
    against = ("--python-executable", str(python))
    assert "Success" in _run(*mypy, *against, "right.py", cwd=tmp_path)
    done = subprocess.run(
        [*mypy, *against, "wrong.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 1, done.stderr
    for mistake in ("threads", "dicee"):
        assert mistake in done.stdout


def test_the_weights_of_the_starter_model_are_small() -> None:
    folder = SOURCE / "ray_brats" / card.STARTER
    if not folder.is_dir():
        pytest.skip("this checkout has no starter model")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert 2**20 < sum(sizes) <= MOST_WEIGHT_BYTES
