"""Of several writers only the newest attempt goes on, and nobody else can write."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_brats.errors import StageFailed
from ray_brats.files import claims, storage
from ray_brats.files.claims import Attempt


def test_every_claim_gets_a_number_of_its_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        attempts = list(pool.map(lambda _: claims.claim_driver(str(tmp_path)), range(24)))
    assert sorted(attempt.number for attempt in attempts) == list(range(1, 25))


def test_a_group_that_was_cut_off_stops_and_its_successor_goes_on(tmp_path: Path) -> None:
    driver = claims.claim_driver(str(tmp_path)).driver
    first = claims.claim_group(str(tmp_path), driver, step=0)
    first.check()
    second = claims.claim_group(str(tmp_path), driver, step=10)
    with pytest.raises(claims.Replaced, match="attempt 3 has taken over"):
        first.check()
    second.check()


def test_a_later_command_takes_the_run_over(tmp_path: Path) -> None:
    first = claims.claim_driver(str(tmp_path))
    old = first.driver
    group = claims.claim_group(str(tmp_path), old, step=0)
    first.check()  # Its own workers are no other command.
    claims.claim_driver(str(tmp_path))
    with pytest.raises(claims.Superseded):
        group.check()
    with pytest.raises(claims.Superseded, match="another command"):
        first.check()
    with pytest.raises(claims.Superseded, match="another command"):
        claims.claim_group(str(tmp_path), old, step=0)


def test_attempts_that_get_nowhere_end_the_run(tmp_path: Path) -> None:
    driver = claims.claim_driver(str(tmp_path)).driver
    for _ in range(2):
        claims.claim_group(str(tmp_path), driver, step=0)
    for _ in range(claims.STALLED_ATTEMPTS):
        claims.claim_group(str(tmp_path), driver, step=5)
    with pytest.raises(StageFailed, match="after step 5"):
        claims.claim_group(str(tmp_path), driver, step=5)
    # Progress, or a new command, starts the count anew.
    claims.claim_group(str(tmp_path), driver, step=6)
    again = claims.claim_driver(str(tmp_path)).driver
    claims.claim_group(str(tmp_path), again, step=6)


def contents(uri: str) -> dict[str, bytes]:
    return {file.uri: storage.read_bytes(file.uri) for file in storage.list_files(uri)}


WRITES: dict[str, Callable[[Attempt, str, Path], None]] = {
    "write_bytes": lambda attempt, uri, _: attempt.write_bytes(uri, b"2"),
    "write_json": lambda attempt, uri, _: attempt.write_json(uri, {"two": 2}),
    "append": lambda attempt, uri, _: attempt.append(uri, b"2"),
    "put": lambda attempt, uri, folder: attempt.put(folder, f"{uri}s", last="b"),
    "delete": lambda attempt, uri, _: attempt.delete(uri),
}
TAKEOVERS: dict[str, tuple[Callable[[str], Attempt], type[Exception]]] = {
    "another command": (claims.claim_driver, claims.Superseded),
    "a newer group": (lambda run: claims.claim_group(run, 1, step=0), claims.Replaced),
}


@pytest.fixture(params=["disk", "bucket"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('bucket')}/run"


def test_every_method_of_an_attempt_that_is_not_its_check_is_held_to_the_law() -> None:
    methods = {name for name, value in vars(Attempt).items() if callable(value)}
    assert {name for name in methods if not name.startswith("_")} == {"check", *WRITES}


@pytest.mark.parametrize("takeover", TAKEOVERS)
@pytest.mark.parametrize("method", WRITES)
def test_an_attempt_that_was_taken_over_writes_nothing(
    run: str, tmp_path: Path, method: str, takeover: str
) -> None:
    if method == "append" and storage.is_remote(run):
        pytest.skip("objects cannot grow")
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "b").write_bytes(b"2")
    target = storage.join(run, "file")
    driver = claims.claim_driver(run).driver
    old = claims.claim_group(run, driver, step=0)
    old.write_bytes(target, b"1")
    WRITES[method](old, target, folder)
    old.delete(target)
    old.write_bytes(target, b"1")
    claim, error = TAKEOVERS[takeover]
    claim(run)
    before = contents(run)
    with pytest.raises(error):
        WRITES[method](old, target, folder)
    assert contents(run) == before


@pytest.mark.parametrize("method", WRITES)
def test_a_driver_writes_beside_its_groups_but_not_beside_another_driver(
    tmp_path: Path, method: str
) -> None:
    run, folder = str(tmp_path / "run"), tmp_path / "made"
    folder.mkdir()
    (folder / "b").write_bytes(b"2")
    old = claims.claim_driver(run)
    claims.claim_group(run, old.driver, step=0)
    WRITES[method](old, f"{run}/file", folder)
    claims.claim_group(run, claims.claim_driver(run).driver, step=0)
    before = contents(run)
    with pytest.raises(claims.Superseded, match="another command works on"):
        WRITES[method](old, f"{run}/file", folder)
    assert contents(run) == before
