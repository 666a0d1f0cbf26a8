"""Several services on one state: every accepted job ends once, whoever dies, pauses or wakes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serve_doubles import SERVED, hasten

from ray_brats.files import storage
from ray_brats.serve.jobs import leases, store
from ray_brats.serve.jobs.leases import Lost
from ray_brats.serve.jobs.queue import Jobs
from ray_brats.serve.jobs.records import Change, Job, JobRequest
from ray_brats.serve.jobs.store import JobsStore
from ray_brats.serve.limits import Limits
from ray_brats.serve.models import Answer

pytestmark = pytest.mark.anyio
REQUEST = JobRequest(model="default", task="gli-2020")
STALE = 0.5


def answer(mask: bytes) -> Answer:
    return Answer(mask=mask, volumes_ml={}, bundles=())


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it in tenths of a second."""
    hasten(monkeypatch, STALE)


class Process:
    """A service's queue on a state, with a model that says who it is."""

    def __init__(self, state: Path, name: str) -> None:
        self.name, self.asked = name, list[bytes]()
        self.hold = asyncio.Event()
        self.hold.set()
        self.store = JobsStore(str(state))
        self.jobs = Jobs(self.store, {"default": SERVED}, self.segment, Limits())

    async def segment(self, model: str, images: Mapping[str, Any], task: str) -> Answer:
        self.asked.append(images["t2"])
        await self.hold.wait()
        return Answer(mask=self.name.encode(), volumes_ml={}, bundles=(self.name,))

    def die(self) -> None:
        """No task of it runs any more, and nothing is said to anybody."""
        for task in [*self.jobs._workers, *self.jobs._running.values()]:
            task.cancel()

    def pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It shows no more signs of life, and sees none of others'."""

        def silent(*_: object) -> None:
            return

        for lease in self.jobs._held.all().values():
            monkeypatch.setattr(lease, "beat", silent)

    async def submit(self, content: bytes) -> str:
        return (await self.jobs.submit(REQUEST, {"t2": content})).id

    async def state(self, job_id: str, *states: str) -> Job:
        for _ in range(400):
            job = await self.jobs.get(job_id)
            if job is not None and job.state in states:
                return job
            await asyncio.sleep(0.02)
        raise AssertionError(f"still {job}")

    async def mask(self, job_id: str) -> bytes:
        result = await self.jobs.result(job_id)
        assert result is not None
        assert result.answer.mask == result.answer.bundles[0].encode()
        return result.answer.mask


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[[str], Process]]:
    """Makes the processes of one state."""
    made = list[Process]()

    def one(name: str) -> Process:
        made.append(Process(tmp_path, name))
        return made[-1]

    yield one
    for process in made:
        process.die()


async def test_of_two_that_live_each_job_is_one_s(start: Callable[[str], Process]) -> None:
    one, two = start("one"), start("two")
    await two.jobs.start()
    names = [await one.submit(b"%d" % number) for number in range(30)]
    names += [await two.submit(b"%d" % number) for number in range(30, 60)]
    for name in names:
        assert (await two.state(name, "done")).state == "done"
    assert sorted(one.asked + two.asked, key=int) == [b"%d" % number for number in range(60)]


async def test_a_long_job_stays_its_owner_s_while_that_lives(
    start: Callable[[str], Process],
) -> None:
    one, two = start("one"), start("two")
    one.hold.clear()
    await two.jobs.start()
    name = await one.submit(b"x")
    await one.state(name, "running", "done")
    owner, other = (one, two) if one.asked else (two, one)
    await asyncio.sleep(3 * STALE)
    one.hold.set()
    await one.state(name, "done")
    assert (len(owner.asked), other.asked) == (1, [])


async def test_another_goes_on_with_what_the_dead_left(start: Callable[[str], Process]) -> None:
    one = start("one")
    one.hold.clear()
    names = [await one.submit(b"%d" % number) for number in range(3)]
    await one.state(names[0], "running")
    one.die()
    two, began = start("two"), time.monotonic()
    await two.jobs.start()
    assert {await two.mask((await two.state(name, "done")).id) for name in names} == {b"two"}
    assert sorted(two.asked) == [b"0", b"1", b"2"]
    assert STALE <= time.monotonic() - began < 10 * STALE


async def test_jobs_go_on_in_the_order_in_which_they_came(
    start: Callable[[str], Process],
) -> None:
    contents = [b"%d" % number for number in range(6)]
    keeper = start("none").store
    names = [keeper.add(REQUEST, {"t2": content}).id for content in contents]
    one = start("one")
    await one.jobs.start()
    for name in names:
        await one.state(name, "done")
    assert one.asked == contents


async def test_what_is_given_back_goes_on_at_once_and_counts_as_not_begun(
    start: Callable[[str], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "STALE_SECONDS", 3600.0)
    name = ""
    for number in range(store.MAX_STARTS + 2):
        process = start(str(number))
        process.hold.clear()
        name = name or await process.submit(b"x")
        await process.jobs.start()
        await process.state(name, "running")
        await process.jobs.stop()
        job = await process.jobs.get(name)
        assert job is not None
        assert (job.state, job.starts) == ("queued", 0)
    last = start("last")
    await last.jobs.start()
    await last.state(name, "done")
    assert await last.mask(name) == b"last"


async def test_who_pauses_and_wakes_overwrites_nothing(
    start: Callable[[str], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = start("one"), start("two")
    one.hold.clear()
    name = await one.submit(b"x")
    await one.state(name, "running")
    one.pause(monkeypatch)
    await two.jobs.start()
    end = await two.state(name, "done")
    one.hold.set()
    await asyncio.sleep(0.3)
    assert one.jobs._running == {}
    assert await one.jobs.get(name) == end
    assert await one.mask(name) == b"two"


async def test_who_pauses_before_the_last_word_and_wakes_has_no_say(
    start: Callable[[str], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the lease and the write: the storage decides who was first."""
    one, two = start("one"), start("two")
    one.hold.clear()
    name = await one.submit(b"x")
    await one.state(name, "running")
    (lease,) = one.jobs._held.all().values()
    one.pause(monkeypatch)
    monkeypatch.setattr(lease, "check", lambda: None)
    await two.jobs.start()
    end = await two.state(name, "done")
    one.hold.set()
    await asyncio.sleep(0.3)
    assert await one.jobs.get(name) == end
    assert await one.mask(name) == b"two"
    folder = Path(lease._folder)
    assert [path.name for path in folder.glob("mask*")] == ["mask-000002.nii.gz"]


async def test_a_job_that_one_cancels_ends_so_for_the_other(
    start: Callable[[str], Process],
) -> None:
    one, two = start("one"), start("two")
    one.hold.clear()
    name = await one.submit(b"x")
    await one.state(name, "running")
    cancelled = await two.jobs.cancel(name)
    assert cancelled is not None
    assert cancelled.state == "cancelled"
    one.hold.set()
    await asyncio.sleep(0.3)
    assert one.jobs._running == {}
    assert (await one.state(name, "done", "cancelled", "failed")).state == "cancelled"
    assert await one.jobs.result(name) is None
    assert await two.jobs.cancel(name) == cancelled
    assert await one.jobs.get(name) is None


async def test_a_storage_that_fails_for_a_while_loses_no_job(
    start: Callable[[str], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, create = start("one"), storage.create

    def broken(uri: str, content: bytes) -> bool:
        raise OSError("the storage is away")

    one.hold.clear()
    name = await one.submit(b"x")
    await one.state(name, "running")
    monkeypatch.setattr(storage, "create", broken)
    one.hold.set()
    await asyncio.sleep(0.3)
    monkeypatch.setattr(storage, "create", create)
    await one.state(name, "done")


@pytest.fixture(params=["folder", "bucket"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A state on this machine, and one in a bucket."""
    if request.param == "folder":
        return str(tmp_path)
    return f"{request.getfixturevalue('bucket')}/state"


def test_of_many_who_ask_for_a_job_one_gets_it(state: str) -> None:
    stores = [JobsStore(state) for _ in range(8)]
    names = [stores[0].add(REQUEST, {}).id for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        for name in names:
            claimed = list(pool.map(lambda one, name=name: one.claim(name), stores))
            assert sum(lease is not None for lease in claimed) == 1
            ended = pool.map(
                lambda one, name=name: one.update(name, Change(state="failed", error=one._owner)),
                stores,
            )
            assert len({job.error for job in ended}) == 1


def test_of_many_who_end_a_job_the_first_does(state: str) -> None:
    first, second = JobsStore(state), JobsStore(state)
    name = first.add(REQUEST, {"t2": b"x"}).id
    lease = first.claim(name)
    assert lease is not None
    assert second.claim(name) is None
    first.begin(name, lease)
    first.put_answer(name, answer(b"early"), lease)
    assert second.update(name, Change(state="cancelled")).state == "cancelled"
    with pytest.raises(Lost):
        first.put_answer(name, answer(b"late"), lease)
    with pytest.raises(Lost):
        first.update(name, Change(state="done"), lease)
    # A word of before the end that arrives after it.
    storage.write_json(f"{state}/jobs/{name}/job.json", {"id": name, "state": "running"})
    for one in (first, second):
        job = one.get(name)
        assert job is not None
        assert job.state == "cancelled"
    kept = {storage.name_of(file.uri) for file in storage.list_files(f"{state}/jobs/{name}")}
    assert kept == {"request.json", "job.json", "end.json", "lease-000001"}


def test_a_lease_that_another_takes_is_lost_for_good(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "STALE_SECONDS", 0.0)
    first, second = JobsStore(state), JobsStore(state)
    name = first.add(REQUEST, {}).id
    old = first.claim(name)
    second.look()
    new = second.claim(name)
    assert old is not None
    assert new is not None
    assert new.number == old.number + 1
    for use in (old.check, old.beat, lambda: first.let_go(name, old)):
        with pytest.raises(Lost):
            use()
    new.check()


def test_what_a_late_owner_of_a_removed_job_does_brings_it_not_back(state: str) -> None:
    first, second = JobsStore(state), JobsStore(state)
    name = first.add(REQUEST, {}).id
    lease = first.claim(name)
    assert lease is not None
    second.update(name, Change(state="cancelled"))
    second.remove(name)
    for use in (lease.beat, lambda: first.put_answer(name, answer(b"late"), lease)):
        with pytest.raises(Lost):
            use()
    assert storage.list_files(state) == []


def test_what_another_is_taking_in_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, half = JobsStore(str(tmp_path)), tmp_path / "jobs" / ("a" * 32)
    half.mkdir(parents=True)
    (half / "t2.bin").write_bytes(b"x")
    monkeypatch.setattr(store, "YOUNG_SECONDS", 0.2)
    here.look()
    time.sleep(0.25)
    (half / "flair.bin").write_bytes(b"x")
    here.look()
    assert len(list(half.iterdir())) == 2, "it still grows"
    time.sleep(0.25)
    here.look()
    assert not half.exists()


def test_no_clock_is_believed(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose clock is an hour ahead or behind takes nothing from anybody."""
    first, second = JobsStore(state), JobsStore(state)
    name = first.add(REQUEST, {}).id
    lease = first.claim(name)
    assert lease is not None
    now = time.time()
    for hours in (-1, 1):
        monkeypatch.setattr(time, "time", lambda shift=hours: now + 3600 * shift)
        assert second.look().taken == {name}
        lease.beat()
        assert second.claim(name) is None


def test_a_state_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    first = JobsStore(str(tmp_path))
    ended, waiting = (first.add(REQUEST, {}).id for _ in range(2))
    file = str(tmp_path / "jobs" / ended / "job.json")
    storage.write_json(file, {"id": ended, "state": "done", "bundles": ["f"], "ended_unix": 7})
    (tmp_path / "jobs" / ended / "mask.nii.gz").write_bytes(b"old")
    second = JobsStore(str(tmp_path))
    look = second.look()
    assert (look.free, look.taken) == ({waiting}, {ended})
    result = second.result(ended)
    assert result is not None
    assert result.answer.mask == b"old"
    assert second.forget(8) == 1
