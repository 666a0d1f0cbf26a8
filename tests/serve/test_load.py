"""The load of `benchmark.py serve`, against the application on loopback, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("ray")
from serve_doubles import Double, files_of, listening, predictor

from ray_brats.benchmarks import serve
from ray_brats.errors import UsageError


def test_a_saturated_and_an_overloaded_service(cohort_folder: Path, tmp_path: Path) -> None:
    bodies = [files_of(cohort_folder / f"BraTS20_Training_00{n}") for n in (1, 2)]
    expected = [serve._mask(predictor(), files) for files in bodies]
    with listening(Double(tmp_path).app) as url:
        seconds = asyncio.run(serve._saturated(url, bodies, expected, [0, 1, 0, 1]))
        assert 0 < seconds < 5
        found = asyncio.run(serve._overloaded(url, bodies, rate=100 / seconds, masks=6))
        with pytest.raises(UsageError, match="200"):
            asyncio.run(serve._saturated(url, bodies, expected[::-1], [0, 1]))
    assert found["offered"] == 24
    assert found["masks"] >= 8, "every place is used"
    assert found["refused with 429"] == 24 - found["masks"] > 0
    assert found["anything else"] == 0
    assert 0 < found["seconds to 429, 95th percentile"] <= found["seconds to 429, longest"]
