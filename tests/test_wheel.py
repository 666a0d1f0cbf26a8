"""What a stranger gets: the wheel alone, in an empty environment, on real cases."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ray_brats.model import card

SOURCE = Path(__file__).resolve().parents[1]
PACKAGE = SOURCE / "ray_brats"
MOST_WEIGHT_BYTES = 25 * 2**20
PROGRAM = """
from ray_brats import api

cohort = api.find("cases")
case: api.Case = cohort.cases[0]
predictor = api.load_predictor("OUT/run/bundle", tta="flips")
prediction = predictor.segment(case)
volumes_ml: dict[str, float] = prediction.region_ml()
shape: tuple[int, ...] = prediction.mask_native.shape
api.save_mask(prediction, "mask.nii.gz", release="brats2023")
dice: float = api.evaluate(prediction, "expert_seg.nii.gz")["WT"].dice
"""
"""What a user writes; it is not run."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(SOURCE))
    (wheel,) = folder.glob("ray_brats-*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of a new environment that has the wheel alone."""
    if not (PACKAGE / card.STARTER / card.CARD).is_file():
        pytest.skip("this checkout has no starter model")
    environment = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(environment, with_pip=True)
    commands = environment / "bin"
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


@pytest.mark.slow
def test_the_wheel_carries_licences_types_the_manual_and_the_page(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = (name.removesuffix("/METADATA") for name in names if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        text = archive.read("ray_brats/LICENSE").decode()
        licences = metadata.get_all("License-File") or []
        assert text == archive.read(f"{info}/licenses/ray_brats/LICENSE").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert licences == ["ray_brats/LICENSE", "ray_brats/starter/LICENSE.md"]
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    carried = [PACKAGE / "py.typed", PACKAGE / "starter" / "LICENSE.md"]
    carried += (PACKAGE / "docs").rglob("*.*")
    carried += (PACKAGE / "serve" / "page").glob("*.*")
    assert len(carried) > 25
    assert {path.relative_to(SOURCE).as_posix() for path in carried} <= names


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_users_program_is_checked_against_the_types_of_the_wheel(
    installed: Path, tmp_path: Path
) -> None:
    if not (PACKAGE / "api.py").is_file():
        pytest.skip("ray_brats.api is not yet there")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable")
    check = (*mypy, str(installed / "python"), "--cache-dir", str(tmp_path / "cache"), program.name)
    _run(*check, cwd=tmp_path)
    # Types that nobody knows would let everything pass.
    program.write_text(PROGRAM.replace("dict[str, float]", "int"))
    with pytest.raises(AssertionError, match="Incompatible types in assignment"):
        _run(*check, cwd=tmp_path)


@pytest.mark.ray
@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.timeout(1800)
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
    folder = PACKAGE / card.STARTER
    if not folder.is_dir():
        pytest.skip("this checkout has no starter model")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert 2**20 < sum(sizes) <= MOST_WEIGHT_BYTES
