"""A mask as its client wants it: a `.nii.gz`, volumes alone, DICOM, or all that there is of it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

from fastapi import Response
from fastapi.responses import JSONResponse

from ray_brats.recipes import tasks
from ray_brats.serve.limits import Refusal
from ray_brats.serve.models import Segmentation

MASK, JSON, DICOM, ZIP = (
    "application/gzip",
    "application/json",
    "application/dicom",
    "application/zip",
)
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every entry of a zip, so that equal answers are equal bytes."""


def form_of(headers: Mapping[str, str]) -> str:
    """What the `Accept` of a request asks for: the mask, where it names nothing else of ours."""
    accepted = headers.get("accept", "").lower()
    return next((form for form in (JSON, DICOM, ZIP) if form in accepted), MASK)


def check_raw(form: str, raw: bool) -> None:
    """Raises `Refusal` 406 for a form that only raw studies have."""
    if form in (DICOM, ZIP) and not raw:
        raise Refusal(406, f"{form} is the answer to a raw study: pass raw=true, and its zip")


def of(segmentation: Segmentation, form: str = MASK) -> Response:
    """The mask with what made it; `Refusal` 406 where there is none of that form."""
    content = _content(segmentation, form)
    return Response(content, media_type=form if form != JSON else MASK, headers=_told(segmentation))


def _content(segmentation: Segmentation, form: str) -> bytes:
    answer = segmentation.answer
    if form not in (DICOM, ZIP):
        return answer.mask
    check_raw(form, answer.home is not None)
    assert answer.home is not None
    if form == ZIP:
        dicom = {"mask.dcm": answer.home.dicom} if answer.home.dicom else {}
        return _zipped({"mask.nii.gz": answer.mask, "scan.nii.gz": answer.home.scan, **dicom})
    if answer.home.dicom is None:
        raise Refusal(406, "the study is one of NIfTI: only masks of DICOM go home as DICOM")
    return answer.home.dicom


def _zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    # Stored: all of it is compressed, or nearly empty.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content)
    return buffer.getvalue()


def _told(segmentation: Segmentation) -> dict[str, str]:
    """What made a mask, and what its integers mean."""
    answer, model = segmentation.answer, segmentation.model
    headers = {"X-Ray-Brats-Model": model, "X-Ray-Brats-Task": segmentation.task}
    headers["X-Ray-Brats-Release"] = tasks.old_name(segmentation.task)
    headers["X-Ray-Brats-Bundle"] = ",".join(answer.bundles)
    headers |= {f"X-Ray-Brats-{name}-ML": f"{ml:.6f}" for name, ml in answer.volumes_ml.items()}
    if answer.home is not None:
        headers["X-Ray-Brats-Home"] = answer.home.modality
    if answer.remarks:
        headers["X-Ray-Brats-Remarks"] = _ascii("; ".join(answer.remarks))
    return headers


def _ascii(text: str) -> str:
    """The text as a header holds it: series may be called anything."""
    plain = text.replace("×", "x").encode("ascii", "replace").decode()
    return "".join(letter if letter.isprintable() else " " for letter in plain)


def volumes(segmentation: Segmentation, case_id: str | None) -> Response:
    """Volumes and what made them, without the mask."""
    answer = segmentation.answer
    told = {
        "model": segmentation.model,
        "bundles": answer.bundles,
        "task": segmentation.task,
        "release": tasks.old_name(segmentation.task),
        "volumes_ml": answer.volumes_ml,
        "remarks": answer.remarks,
        "case_id": case_id,
    }
    return JSONResponse(told)
