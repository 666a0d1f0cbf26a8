"""What a stranger gets: the wheel alone, in an empty environment, on real cases."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ray_brats.model import card

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.slow, pytest.mark.timeout(1800)]
SOURCE = Path(__file__).resolve().parents[1]
MOST_WEIGHT_BYTES = 25 * 2**20


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of the commands of a new environment that has the wheel alone."""
    if not (SOURCE / "ray_brats" / card.STARTER / card.CARD).is_file():
        pytest.skip("this checkout has no starter model")
    wheels = tmp_path / "wheels"
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(SOURCE))
    (wheel,) = wheels.glob("ray_brats-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    commands = tmp_path / "venv" / "bin"
    _run(str(commands / "pip"), "install", "-q", "-U", "pip")
    _run(str(commands / "pip"), "install", "-q", str(wheel))
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


def test_the_weights_of_the_starter_model_are_small() -> None:
    folder = SOURCE / "ray_brats" / card.STARTER
    if not folder.is_dir():
        pytest.skip("this checkout has no starter model")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert 2**20 < sum(sizes) <= MOST_WEIGHT_BYTES
