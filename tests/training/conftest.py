"""Prepared cases of noise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from ray_brats.files import storage
from ray_brats.training.data import PreparedCase


def write_case(uri: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = (rng.random((20, 22, 18)) < 0.05).astype(np.uint8)
    for name, array in (("image", rng.normal(size=(20, 22, 18, 2))), ("label", label)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        storage.write_bytes(storage.join(uri, f"{name}.npy"), buffer.getvalue())
    storage.write_bytes(storage.join(uri, "done.json"), str(seed).encode())


@pytest.fixture
def cases(tmp_path: Path) -> list[PreparedCase]:
    for number in range(3):
        write_case(str(tmp_path / f"c{number}"), number)
    return [
        PreparedCase(case_id=f"c{number}", folder=tmp_path / f"c{number}") for number in range(3)
    ]
