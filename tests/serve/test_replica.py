"""One model in one process: passes one after the other, and none for nobody."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from serve_doubles import Double

from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.models import Answer


@pytest.mark.anyio
async def test_a_case_that_nobody_waits_for_any_more_gets_no_pass(
    double: Double, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, passes = double.model, list[int]()
    segment = model._predictor.segment_prepared

    def counted(prepared: object) -> object:
        passes.append(1)
        return segment(prepared)  # type: ignore[arg-type]

    monkeypatch.setattr(model._predictor, "segment_prepared", counted)
    with model._one_pass:
        gone = [asyncio.create_task(model.segment(files, "gli-2020")) for _ in range(3)]
        stays = asyncio.create_task(model.segment(files, "gli-2020"))
        await asyncio.sleep(1)
        for task in gone:
            task.cancel()
        await asyncio.wait(gone)
    assert isinstance(await stays, Answer)
    assert len(passes) == 1


@pytest.mark.anyio
async def test_the_voxels_that_a_model_would_see_count(
    double: Double, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double.model
    finer = dataclasses.replace(model._recipe.preprocess, spacing_mm=(0.25, 0.25, 0.25))
    recipe = dataclasses.replace(model._recipe, preprocess=finer)
    monkeypatch.setattr(model, "_recipe", recipe)
    monkeypatch.setattr(model, "_limits", Limits(voxels=1_000_000))
    refusal = await model.segment(files, "gli-2020")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.file) == (413, "t1ce")
    assert "voxels of the model's size: at most 1000000" in refusal.reason
