"""The folder of a run: who may begin it, that claims alone write, and what is exported."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ray_brats
from ray_brats.errors import UsageError
from ray_brats.files import claims, storage
from ray_brats.recipes import jsonform, named, tasks
from ray_brats.training import checkpoint
from ray_brats.training import run as runs
from ray_brats.training.data import Dataset, DatasetCase
from ray_brats.training.run import ClaimedRun, Existing

RECIPE = named.get("smoke", steps=9)
FACTS = {
    "release": "brats2020",
    "training_cases_sha256": ["a", "b", "c"],
    "validation_cases_sha256": ["d"],
}


def made(run: Path, scores: dict[int, float | None]) -> str:
    """A run with a checkpoint for each step, validated where it has a score."""
    described = {"recipe": jsonform.as_json(RECIPE), "cases": {"training": 3, "validation": 1}}
    storage.write_json(str(run / "run.json"), described | FACTS)
    for step, dice in scores.items():
        folder = run / "checkpoints" / checkpoint.folder_name(step)
        folder.mkdir(parents=True)
        facts = {} if dice is None else {"mean_dice": dice}
        checkpoint.save({"model": []}, folder, step=step, facts=facts)
    return str(run)


def test_the_best_is_chosen_with_what_made_it(tmp_path: Path) -> None:
    chosen = runs.choose(made(tmp_path, {3: 0.2, 6: 0.4, 9: None}))
    assert chosen.checkpoint.step == 6
    assert (chosen.recipe, dict(chosen.cases)) == (RECIPE, {"training": 3, "validation": 1})
    assert chosen.facts == FACTS


def test_a_run_keeps_the_length_it_was_told(tmp_path: Path) -> None:
    run = made(tmp_path, {3: 0.2})
    for other in (named.get("smoke"), named.get("smoke", patches=7), named.get("smoke", minutes=1)):
        assert runs.with_kept_length(other, run) == RECIPE
        assert runs.with_kept_length(other, f"{run}/none") == other


def test_the_tumours_of_its_cases_are_told_where_names_tell_them(tmp_path: Path) -> None:
    run = made(tmp_path, {3: 0.2})
    told = storage.read_json(f"{run}/run.json")
    for tumours, expected in ((None, {}), (["MEN"], {"tumours": ["MEN"]})):
        storage.write_json(f"{run}/run.json", {**told, "tumours": tumours})
        assert runs.choose(run).facts == FACTS | expected
    for names, tumours in (
        (("a", "b"), None),
        (("BraTS-MET-1-0", "a", "BraTS2021_1"), ["GLI", "MET"]),
    ):
        cases = [
            DatasetCase(
                case_id=name,
                patient_id=name,
                grade=None,
                split="train",
                shape_vox=(1, 1, 1),
                image_sha256=name,
                label_sha256=name,
            )
            for name in names
        ]
        found = Dataset(
            uri="x",
            fingerprint="y",
            task=tasks.TASKS["gli-2023"],
            training=tuple(cases),
            validation=(),
            unlabelled=0,
        )
        assert runs.describe(found, RECIPE, 1)["tumours"] == tumours


def test_whose_labels_it_writes_is_never_guessed(tmp_path: Path) -> None:
    run = made(tmp_path, {3: 0.2})
    told = storage.read_json(f"{run}/run.json")
    older = {name: value for name, value in told.items() if name not in FACTS}
    storage.write_json(f"{run}/run.json", older)
    with pytest.raises(UsageError, match="whose labels"):
        runs.choose(run)
    storage.write_json(f"{run}/bundle/bundle.json", FACTS | {"more": 1})
    assert runs.choose(run).facts == FACTS


def test_a_named_one_is_chosen_whatever_its_score(tmp_path: Path) -> None:
    run = made(tmp_path, {3: 0.2, 6: 0.4})
    assert runs.choose(run, "step-000003").checkpoint.step == 3


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run"):
        runs.choose(str(tmp_path))
    run = made(tmp_path / "without", {})
    with pytest.raises(UsageError, match="no complete checkpoint; it has none"):
        runs.choose(run)
    run = made(tmp_path / "with", {3: 0.2, 6: 0.4})
    with pytest.raises(UsageError, match="no checkpoint step-9; it has step-000003, step-000006"):
        runs.choose(run, "step-9")


# --- who may begin ---------------------------------------------------------------------

DESCRIBED = {"identity": "1", "lengthless": "same", "dataset_fingerprint": "same"}


def attempts(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "attempts").glob("*"))


def test_a_run_begins_with_a_claim_and_its_description(tmp_path: Path) -> None:
    claimed = runs.begin(str(tmp_path), DESCRIBED, existing="refuse")
    assert claimed is not None
    assert runs.read(str(tmp_path)).description == DESCRIBED
    assert attempts(tmp_path) == ["000001.json"]


@pytest.mark.parametrize("name", ["run.json", "bundle/card", "checkpoints/1/a", "metrics.jsonl"])
def test_a_run_begins_over_nobody_elses_files(tmp_path: Path, name: str) -> None:
    run = str(tmp_path / "run")
    storage.write_bytes(f"{run}/{name}", b"theirs")
    with pytest.raises(UsageError, match=r"but no run, and they would be replaced"):
        runs.begin(run, DESCRIBED, existing="resume")
    assert [file.uri for file in storage.list_files(run)] == [f"{run}/{name}"]
    storage.delete(f"{run}/{name}")
    storage.write_bytes(f"{run}/notes.txt", b"theirs")
    assert runs.begin(run, DESCRIBED, existing="refuse")


def test_a_run_is_finished_with_its_bundle(tmp_path: Path) -> None:
    claimed = runs.begin(str(tmp_path), DESCRIBED, existing="refuse")
    assert claimed is not None
    claimed.finish()
    claimed = runs.begin(str(tmp_path), DESCRIBED, existing="resume")
    assert claimed is not None, "it has no bundle yet"
    claimed.finish()
    storage.write_json(str(tmp_path / "bundle" / "bundle.json"), {})
    assert runs.begin(str(tmp_path), DESCRIBED, existing="resume") is None
    assert len(attempts(tmp_path)) == 2


@pytest.mark.parametrize(
    ("change", "existing", "words"),
    [
        ({"lengthless": "other"}, "extend", "another configuration"),
        (
            {"lengthless": "other", "dataset_fingerprint": "other"},
            "extend",
            "another dataset .* mended since",
        ),
        ({}, "resume", "another length: pass the same length"),
        ({}, "refuse", "holds a run already: pass --resume"),
    ],
)
def test_another_run_is_refused_with_what_differs(
    tmp_path: Path, change: dict[str, str], existing: Existing, words: str
) -> None:
    storage.write_json(str(tmp_path / "run.json"), DESCRIBED)
    other = {**DESCRIBED, "identity": "2", **change}
    with pytest.raises(UsageError, match=words):
        runs.begin(str(tmp_path), other, existing=existing)
    assert runs.read(str(tmp_path)).description == DESCRIBED
    assert not attempts(tmp_path)


@pytest.mark.parametrize(("steps", "refused"), [(600, True), (3999, True), (4001, False)])
def test_a_run_is_not_shortened_to_less_than_it_has_planned(
    tmp_path: Path, steps: int, refused: bool
) -> None:
    def described(length: int) -> dict[str, Any]:
        recipe = {"train": {"steps": length}}
        return DESCRIBED | {"identity": str(length), "recipe": recipe}

    folder = tmp_path / "checkpoints" / checkpoint.folder_name(500)
    folder.mkdir(parents=True)
    plan = {"total_steps": 4000, "checkpoint_every": 100}
    checkpoint.save({"model": []}, folder, step=500, facts={"plan": plan})
    storage.write_json(str(tmp_path / "run.json"), described(4000))
    if refused:
        with pytest.raises(UsageError, match=f"--steps {steps}: .* goes to step 4000"):
            runs.begin(str(tmp_path), described(steps), existing="extend")
    else:
        assert runs.begin(str(tmp_path), described(steps), existing="extend")


# --- who may write ---------------------------------------------------------------------


def new_checkpoint(folder: Path, step: int) -> Path:
    folder.mkdir(parents=True)
    checkpoint.save({"model": []}, folder, step=step, facts={})
    return folder


WRITES: dict[str, Callable[[ClaimedRun, Path], None]] = {
    "keep": lambda claimed, folder: claimed.keep(new_checkpoint(folder, 9), 9),
    "delete_notes": lambda claimed, _: claimed.delete_notes(),
    "finish": lambda claimed, _: claimed.finish(),
}


def contents(run: str) -> dict[str, bytes]:
    return {file.uri: storage.read_bytes(file.uri) for file in storage.list_files(run)}


def begun(run: str) -> tuple[ClaimedRun, ClaimedRun]:
    """A driver's claim and that of its group, on a run with all that a run can hold."""
    driver = runs.begin(run, DESCRIBED, existing="resume")
    assert driver is not None
    group, _ = runs.join(run, driver.attempt.driver)
    for name in ("checkpoints/step-000001/state.npz", ".ray-train/note"):
        storage.write_bytes(f"{run}/{name}", b"1")
    return driver, group


def test_every_method_of_a_claimed_run_is_held_to_the_law() -> None:
    methods = inspect.getmembers(ClaimedRun, inspect.isfunction)
    assert {name for name, _ in methods if not name.startswith("_")} == set(WRITES)


@pytest.mark.parametrize("method", WRITES)
def test_who_was_taken_over_writes_nothing_into_the_run(tmp_path: Path, method: str) -> None:
    run = str(tmp_path / "run")
    driver, group = begun(run)
    before = contents(run)
    WRITES[method](driver, tmp_path / "first")
    assert contents(run) != before
    driver, group = begun(run)
    _, newer = begun(run)
    before = contents(run)
    for number, old in enumerate((driver, group)):
        with pytest.raises(claims.Superseded):
            WRITES[method](old, tmp_path / str(number))
    assert contents(run) == before
    newest, _ = runs.join(run, newer.attempt.driver)
    before = contents(run)
    with pytest.raises(claims.Replaced):
        WRITES[method](newer, tmp_path / "last")
    assert contents(run) == before
    WRITES[method](newest, tmp_path / "newest")


def test_a_group_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    run = made(tmp_path, {3: 0.2, 6: 0.4})
    driver = claims.claim_driver(run).driver
    claimed, newest = runs.join(run, driver)
    assert newest is not None
    assert (newest.step, claimed.attempt.number) == (6, 2)
    assert storage.read_json(f"{run}/attempts/000002.json") == {"driver": 1, "step": 6}
    claimed.keep(new_checkpoint(tmp_path / "new", 7), 7)
    assert runs.choose(run, "step-000007").checkpoint.step == 7
    assert not (tmp_path / "new").exists()


WRITERS = {"storage": ("write", "delete", "create"), "folders": ("put",)}
PLACES = {"storage": 0, "folders": 1}
"""Which argument says where something is written."""


def writes_by_no_claim(code: str) -> Iterator[str]:
    """What a module writes to a URI otherwise than by an attempt.

    A `str(…)` is a local path's: files of this node, which are in no run.
    """
    tree = ast.parse(code)
    local = {
        call.func
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and len(call.args) > (place := PLACES.get(getattr(call.func.value, "id", ""), 9))
        and isinstance(call.args[place], ast.Call)
        and getattr(call.args[place].func, "id", "") == "str"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in local:
            module = getattr(node.value, "id", "")
            if node.attr.startswith(WRITERS.get(module, ("?",))):
                yield f"{module}.{node.attr}"
        is_path = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Path"
        if is_path and "run" in ast.unparse(node):
            yield ast.unparse(node)


@pytest.mark.parametrize(
    ("code", "writes"),
    [
        ("storage.write_json(storage.join(run_uri, 'run.json'), {})", ["storage.write_json"]),
        ("write = storage.write_bytes", ["storage.write_bytes"]),
        ("storage.delete(uri)", ["storage.delete"]),
        ("folders.put(folder, target, last='x')", ["folders.put"]),
        ("Path(self._run_uri, FILE).open('a')", ["Path(self._run_uri, FILE)"]),
        ("storage.write_bytes(str(folder / 'x'), b'')", []),
        ("folders.put(folder, str(other), last='x')", []),
        ("attempt.write_json(uri, {}); storage.read_json(uri)", []),
    ],
)
def test_what_writes_by_no_claim_is_found(code: str, writes: list[str]) -> None:
    assert list(writes_by_no_claim(code)) == writes


def test_nothing_that_trains_writes_into_a_run_but_by_a_claim() -> None:
    package = Path(ray_brats.__file__).parent
    stages = [package / "stages" / f"{name}.py" for name in ("train", "rank", "board")]
    paths = [*package.glob("training/*.py"), *stages]
    assert len(paths) >= 15
    found = {path.stem: list(writes_by_no_claim(path.read_text())) for path in paths}
    # Where no run is meant: of a bundle that goes to a place of its own.
    assert {stem: writes for stem, writes in found.items() if writes} == {"export": ["folders.put"]}
