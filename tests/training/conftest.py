"""Prepared cases of noise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from ray_brats.files import storage
from ray_brats.training import data
from ray_brats.training.data import PreparedCase


def write_case(uri: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = (rng.random((20, 22, 18)) < 0.05).astype(np.uint8)
    image = rng.normal(size=(20, 22, 18, 2))
    files = {data.IMAGE: image, data.LABEL: label, **data.kept_of(label)}
    for name, array in files.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        storage.write_bytes(storage.join(uri, name), buffer.getvalue())
    storage.write_json(storage.join(uri, data.SIDECAR), {"key": seed, "files": [*files]})


@pytest.fixture
def cases(tmp_path: Path) -> list[PreparedCase]:
    for number in range(3):
        write_case(str(tmp_path / f"c{number}"), number)
    return [
        PreparedCase(case_id=f"c{number}", folder=tmp_path / f"c{number}") for number in range(3)
    ]
