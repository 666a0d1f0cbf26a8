"""`score --flat`: a folder of cases to a folder of masks, as challenges run what is handed in.

One process, no Ray, no network. Nothing but the folder of masks is written to, and nothing but
masks is left there: no ledger and no sidecars, so a call that was cut off begins again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ray_brats import labels
from ray_brats.cases.case import Case, Cohort
from ray_brats.errors import UsageError
from ray_brats.files import ledger, ownership, retry, storage
from ray_brats.files.ledger import CaseRow
from ray_brats.progress import Progress, say, silenced

if TYPE_CHECKING:
    from ray_brats.cases.preprocess import Prepared
    from ray_brats.labels import Task
    from ray_brats.model.card import Chosen
    from ray_brats.model.predict import Predictor
    from ray_brats.model.predictions import ScoreSummary
    from ray_brats.recipes.config import PreprocessConfig


def score(cohort: Cohort, folder: str, chosen: Chosen, task: Task) -> ScoreSummary:
    """Segment the cases one after the other; while one passes the network, the next is read.

    Args:
        cohort: the cases.
        folder: gets `<case_id>.nii.gz`, and nothing else.
        chosen: the bundles.
        task: whose labels the masks carry.

    Raises:
        UsageError: `folder` is no local one, holds one of the masks already, or masks of other
            integers.
    """
    from ray_brats.model.predictions import ScoreSummary, check_place, mask_name

    if storage.is_remote(folder):
        raise UsageError(f"--flat {folder}: expected a folder of this machine")
    check_place(folder, task)
    targets = {case.case_id: storage.join(folder, mask_name(case.case_id)) for case in cohort.cases}
    ownership.check_files({storage.name_of(uri): uri for uri in targets.values()}, cohort.files())
    done: list[CaseRow] = []
    with _scratch(Path(folder)), Progress("score", len(cohort.cases)) as progress:
        predictor = _loaded(chosen)
        for case, read in _read_ahead(cohort.cases, chosen.recipe.preprocess):
            row = read
            if not isinstance(row, CaseRow):
                row = _segmented(case, row, predictor, task, targets[case.case_id])
            done.append(row)
            progress.update(len(done))
    rows = ledger.in_order(done, cohort.rejected)
    return ScoreSummary(
        predictions=folder,
        task=task.name,
        counts=ledger.counts(rows),
        processed=len(cohort.cases),
        skipped=0,
        notes=ledger.remark_lines(rows),
        remarked=[row.case_id for row in rows if row.get("remarks")],
        failures=[row for row in rows if row.status != "ok"],
    )


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Room for temporary files: among the masks, until the end, where nothing else is writable."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        pass
    else:
        yield
        return
    own = folder / f".ray-brats-{os.getpid()}"
    own.mkdir()
    tempfile.tempdir = str(own)
    try:
        yield
    finally:
        tempfile.tempdir = None
        shutil.rmtree(own, ignore_errors=True)


def _loaded(chosen: Chosen) -> Predictor:
    say("score: loading TensorFlow and the model")
    with silenced():
        from ray_brats.model import bundle

        return bundle.load_predictor(
            chosen.uris, chosen.sha256, asked=chosen.asked, threads=os.cpu_count() or 1
        )


def _read_ahead(
    cases: Sequence[Case], config: PreprocessConfig
) -> Iterator[tuple[Case, Prepared | CaseRow]]:
    """Each case with what it was prepared to, or with why it was not; at most two in memory."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_read, cases[0], config) if cases else None
        for number, case in enumerate(cases, start=1):
            assert coming is not None
            prepared = coming.result()
            if number < len(cases):
                coming = pool.submit(_read, cases[number], config)
            yield case, prepared


def _read(case: Case, config: PreprocessConfig) -> Prepared | CaseRow:
    from ray_brats.cases import preprocess

    tried = retry.patiently(lambda _: preprocess.preprocess_case(case, config, with_mask=False))
    return tried.result or _failed(case, tried.error)


def _segmented(
    case: Case, prepared: Prepared, predictor: Predictor, task: Task, target: str
) -> CaseRow:
    from ray_brats.cases.volume import encode

    def once(_: int) -> CaseRow:
        prediction = predictor.segment_prepared(prepared)
        raw = labels.from_class_index(prediction.mask_native, task)
        storage.write_bytes(target, encode(raw, prediction.geometry))
        return CaseRow(case_id=case.case_id, facts=ledger.remarked(prepared.remarks))

    tried = retry.patiently(once)
    return tried.result or _failed(case, tried.error)


def _failed(case: Case, error: Exception | None) -> CaseRow:
    assert error is not None
    return retry.failed_row(case.case_id, error)
