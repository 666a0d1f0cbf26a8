"""Of several writers only the newest attempt goes on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_brats.errors import StageFailed
from ray_brats.files import claims as fence


def test_every_claim_gets_a_number_of_its_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: fence.claim_driver(str(tmp_path)), range(24)))
    assert sorted(claim.number for claim in claims) == list(range(1, 25))


def test_a_group_that_was_cut_off_stops_and_its_successor_goes_on(tmp_path: Path) -> None:
    driver = fence.claim_driver(str(tmp_path)).driver
    first = fence.claim_group(str(tmp_path), driver, step=0)
    first.check()
    second = fence.claim_group(str(tmp_path), driver, step=10)
    with pytest.raises(fence.Replaced, match="attempt 3 has taken over"):
        first.check()
    second.check()


def test_a_later_command_takes_the_run_over(tmp_path: Path) -> None:
    first = fence.claim_driver(str(tmp_path))
    old = first.driver
    group = fence.claim_group(str(tmp_path), old, step=0)
    first.check_driver()  # Its own workers are no other command.
    fence.claim_driver(str(tmp_path))
    with pytest.raises(fence.Superseded):
        group.check()
    with pytest.raises(fence.Superseded, match="another command"):
        first.check_driver()
    with pytest.raises(fence.Superseded, match="another command"):
        fence.claim_group(str(tmp_path), old, step=0)


def test_attempts_that_get_nowhere_end_the_run(tmp_path: Path) -> None:
    driver = fence.claim_driver(str(tmp_path)).driver
    for _ in range(2):
        fence.claim_group(str(tmp_path), driver, step=0)
    for _ in range(fence.STALLED_ATTEMPTS):
        fence.claim_group(str(tmp_path), driver, step=5)
    with pytest.raises(StageFailed, match="after step 5"):
        fence.claim_group(str(tmp_path), driver, step=5)
    # Progress, or a new command, starts the count anew.
    fence.claim_group(str(tmp_path), driver, step=6)
    again = fence.claim_driver(str(tmp_path)).driver
    fence.claim_group(str(tmp_path), again, step=6)
