"""Benchmarks: what they print, and that they measure what they say."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ray_brats.benchmarks import command, measure


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def apart(*arguments: str) -> Any:
    """The result of a benchmark in a process of its own: it measures that, or sets its threads."""
    script = Path(__file__).resolve().parents[2] / "jobs" / "benchmark.py"
    done = subprocess.run(
        [sys.executable, str(script), *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def without_monai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)


def test_json_is_one_object_with_the_ratios(
    cohort_folder: Path, capsys: pytest.CaptureFixture[str], without_monai: None
) -> None:
    arguments = ("preprocess", str(cohort_folder), "--cases", "2", "--repeats", "1", "--json")
    status, out, said = call(capsys, *arguments)
    assert status == 0
    result = json.loads(out)
    assert set(result["ratios"]) >= {"preprocess_vs_monai", "preprocess_vs_floor"}
    assert result["ratios"]["preprocess_vs_monai"] is None
    assert "not installed" in said
    assert result["ratios"]["preprocess_vs_floor"] > 0
    assert result["measured"]["ray-brats"] > 0
    assert result["peak_mib"] > result["peak_mib_before_the_case"] > 0
    assert result["cases"] == 2


def test_a_table_for_people(
    cohort_folder: Path, capsys: pytest.CaptureFixture[str], without_monai: None
) -> None:
    status, out, _ = call(capsys, "preprocess", str(cohort_folder), "--cases", "1")
    assert status == 0
    assert "preprocess_vs_floor" in out
    assert "not measured" in out


def test_monai_is_measured_where_it_is_installed(
    cohort_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("monai")
    arguments = ("preprocess", str(cohort_folder), "--cases", "1", "--repeats", "1", "--json")
    result = json.loads(call(capsys, *arguments)[1])
    expected = result["measured"]["MONAI"] / result["measured"]["ray-brats"]
    assert result["ratios"]["preprocess_vs_monai"] == pytest.approx(expected, rel=0.02)


def test_a_wrong_call_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "preprocess", "/nowhere")[0] == 2
    assert call(capsys, "frobnicate")[0] == 2


def test_contenders_alternate_and_are_warmed_once() -> None:
    calls: list[str] = []

    def spin(name: str, seconds: float) -> None:
        calls.append(name)
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    seconds = measure.alternating(
        {"slow": lambda n: spin(f"slow{n}", 0.04), "fast": lambda n: spin(f"fast{n}", 0.01)},
        [1, 2],
        repeats=1,
    )
    assert calls == ["slow1", "fast1", "slow1", "fast1", "slow2", "fast2"]
    assert seconds["slow"] == pytest.approx(0.04, abs=0.01)
    assert seconds["fast"] == pytest.approx(0.01, abs=0.01)


def test_peak_memory_is_that_of_a_fresh_process() -> None:
    ballast = bytearray(300 << 20)
    peak, before = measure.peak_mib(bytearray, 100 << 20)
    assert len(ballast) > 0
    assert before < 280
    assert peak - before == pytest.approx(100, abs=5)


@pytest.mark.ray
@pytest.mark.slow
def test_growth_is_flat() -> None:
    result = apart("growth_preprocess", "--cases", "10000")
    assert result["counts"] == {"ok": 10_000}
    assert result["ratios"]["growth_preprocess_driver_gib"] < 1
    after_a_tenth = result["measured"]["driver MiB after a tenth"]
    assert result["measured"]["driver MiB at the most"] < 1.25 * after_a_tenth


@pytest.mark.tf
def test_the_flops_of_a_step_are_those_of_its_convolutions() -> None:
    from ray_brats.benchmarks import train
    from ray_brats.recipes import named

    recipe = named.get(
        "standard",
        settings=[
            "network.widths=4,8",
            "network.deep_supervision=0",
            "network.stem_stride=1",
            "network.local_contrast_vox=null",
            "train.patch_vox=8,8,8",
            "inference.window_vox=8,8,8",
        ],
    )
    fine, coarse = 8**3, 4**3
    first = 27 * 3 * 4 * fine  # reads the image: no gradient by its input
    others = 27 * 4 * 4 * fine + 27 * (4 * 8 + 8 * 8) * coarse  # down
    others += 8 * 8 * 4 * coarse + 27 * (8 * 4 + 4 * 4) * fine + 4 * 3 * fine  # up, and the head
    assert train.step_flops(recipe) == 2 * (2 * first + 3 * others)


@pytest.mark.tf
def test_the_twin_in_pytorch_is_our_network() -> None:
    pytest.importorskip("torch")
    from ray_brats.benchmarks import torch_peers
    from ray_brats.model import unet
    from ray_brats.recipes import named

    for settings in ([], ["network.stem_stride=1"]):
        alone = ["network.deep_supervision=0", "network.local_contrast_vox=null", *settings]
        network = named.get("standard", settings=alone).network
        ours = unet.build(network, 3, 3, seed=0).count_params()
        theirs = sum(one.numel() for one in torch_peers.twin(network).parameters())
        # Biases in front of a norm do nothing and are on neither side.
        assert ours == theirs


@pytest.mark.ray
def test_growth_measures_a_manifest_whose_rows_are_one_phantom() -> None:
    # In a process of its own: memory is measured, and this one holds TensorFlow.
    done = subprocess.run(
        [sys.executable, "jobs/benchmark.py", "growth", "--rows=40", "--side=32", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    result = json.loads(done.stdout)
    assert result["counts"] == {"ok": 40}
    assert result["ratios"]["growth_ms_per_case"] > 0
    assert 0 < result["ratios"]["growth_driver_gib"] < 1


@pytest.mark.ray
@pytest.mark.tf
@pytest.mark.slow
def test_scoring_is_measured_against_its_own_forward_passes(
    cohort_folder: Path, tmp_path: Path
) -> None:
    from ray_brats.model import unet
    from ray_brats.recipes import named
    from ray_brats.training import export

    recipe = named.get("smoke")
    model = unet.for_inference(unet.build(recipe.network, 3, len(recipe.outputs), seed=0))
    export.write(model, recipe, str(tmp_path / "bundle"), facts={"release": "brats2020"})
    arguments = ("score", str(cohort_folder), "--bundle", str(tmp_path / "bundle"), "--no-peer")
    result = apart(*arguments, "--cases", "3", "--repeats", "1")
    assert result["ratios"]["score_vs_monai"] is None
    assert result["ratios"]["score_vs_forward"] > 0
    assert result["peak_memory_gib"]["actor"] > 0


@pytest.mark.tf
@pytest.mark.slow
def test_two_training_processes_are_measured_against_one() -> None:
    from ray_brats.benchmarks import ranks, train
    from ray_brats.recipes import named

    small = "network.widths=4,8", "train.patch_vox=16,16,16", "inference.window_vox=16,16,16"
    recipe = named.get("standard", settings=[*train.PLAIN, *small])
    found = ranks.two_against_one(recipe, 2, steps=2)
    assert set(found["patches_per_second"]) == {"1", "2"}
    expected = found["patches_per_second"]["2"] / found["patches_per_second"]["1"]
    assert found["ratio"] == pytest.approx(expected)
    assert 0 <= found["input_wait_share"] < 1


@pytest.mark.parametrize("name", ["score", "serve"])
def test_the_starter_is_measured_by_default(name: str) -> None:
    import inspect

    from ray_brats.model import card

    assert inspect.signature(command.BENCHMARKS[name]).parameters["bundle"].default == card.STARTER
