"""Checkpoints: whole or absent, the newest and the best."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ray_brats.errors import ArtefactError
from ray_brats.files import folders, storage
from ray_brats.training import checkpoint


class Variable:
    """What a checkpoint asks of a variable."""

    def __init__(self, value: float, size: int = 3) -> None:
        self.value = np.full(size, value, np.float32)

    def numpy(self) -> np.ndarray:
        return self.value

    def assign(self, value: np.ndarray) -> None:
        self.value = np.array(value)


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "checkpoints")
    return str(request.getfixturevalue("bucket")) + "/run/checkpoints"


def keep(place: str, tmp_path: Path, step: int, **facts: float) -> str:
    groups = {"model": [Variable(step), Variable(step + 0.5)]}
    checkpoint.save(groups, tmp_path / "made", step=step, facts=facts)
    uri = storage.join(place, checkpoint.folder_name(step))
    folders.put(tmp_path / "made", uri, last=checkpoint.CARD)
    return uri


def steps(place: str) -> list[int]:
    return [item.step for item in checkpoint.list_checkpoints(place)]


def test_what_was_saved_comes_back(place: str, tmp_path: Path) -> None:
    uri = keep(place, tmp_path, 7, loss=0.25)
    groups = {"model": [Variable(0), Variable(0)]}
    found = checkpoint.restore(groups, uri)
    assert (found.step, found.facts["loss"]) == (7, 0.25)
    assert [float(one.value[0]) for one in groups["model"]] == [7, 7.5]
    with pytest.raises(ArtefactError, match="this network has 1"):
        checkpoint.restore({"model": [Variable(0)]}, uri)


def test_a_damaged_state_is_refused(place: str, tmp_path: Path) -> None:
    uri = keep(place, tmp_path, 7)
    state = storage.join(uri, checkpoint.STATE)
    storage.write_bytes(state, storage.read_bytes(state)[:-1] + b"x")
    with pytest.raises(ArtefactError, match="damaged"):
        checkpoint.restore({"model": [Variable(0), Variable(0)]}, uri)


def test_the_newest_and_the_best_stay(place: str, tmp_path: Path) -> None:
    for step, dice in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.8), (5, None), (6, None)):
        keep(place, tmp_path, step, **({} if dice is None else {"mean_dice": dice}))
    storage.write_bytes(storage.join(place, ".DS_Store"), b"none of ours")
    checkpoint.prune(place, keep=2, delete=storage.delete)
    assert steps(place) == [2, 5, 6]
    assert checkpoint.best(checkpoint.list_checkpoints(place)).step == 2
    assert checkpoint.newest(place).step == 6  # type: ignore[union-attr]


def test_what_a_kill_left_half_written_is_no_checkpoint_and_goes(
    place: str, tmp_path: Path
) -> None:
    whole = keep(place, tmp_path, 1)
    later = tmp_path / "made"
    for name, left in (
        (".step-000009.0123abcd.tmp", checkpoint.CARD),
        ("step-000008", "state.npz"),
    ):
        content = (later / left).read_bytes()
        storage.write_bytes(storage.join(place, name, left), content)
    assert steps(place) == [1]
    assert checkpoint.newest(place).uri == whole  # type: ignore[union-attr]
    checkpoint.prune(place, keep=3, delete=storage.delete)
    files = storage.list_files(place)
    assert {storage.name_of(file.uri.rsplit("/", 1)[0]) for file in files} == {"step-000001"}


def test_a_folder_put_on_disk_holds_what_it_held(tmp_path: Path) -> None:
    keep(str(tmp_path / "checkpoints"), tmp_path, 3)
    there = tmp_path / "checkpoints/step-000003"
    for name in (checkpoint.STATE, checkpoint.CARD):
        assert (there / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    shutil.rmtree(there)
    assert checkpoint.newest(str(tmp_path / "checkpoints")) is None
