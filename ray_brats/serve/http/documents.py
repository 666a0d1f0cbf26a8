"""What the OpenAPI document says of bodies and answers that FastAPI cannot see by itself."""

from __future__ import annotations

from typing import Any

DESCRIPTION = (
    "Brain tumour segmentation on BraTS-style MRI. For research, not for diagnosis. "
    "Where keys are asked for, send `Authorization: Bearer KEY`."
)
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_NUMBER = {"type": "number"}
_VOLUMES = {"type": "object", "additionalProperties": _NUMBER}
_ERROR = {"type": "object", "properties": {"error": _TEXT, "file": _TEXT}, "required": ["error"]}
_BINARY = {"type": "string", "format": "binary"}
_JOB = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "state": {"enum": ["queued", "running", "done", "failed", "cancelled"]},
        "progress": {"type": ["number", "null"]},
        "volumes_ml": {"anyOf": [_VOLUMES, {"type": "null"}]},
        "remarks": {"anyOf": [_TEXTS, {"type": "null"}]},
        "error": {"type": ["string", "null"]},
    },
    "required": ["id", "state"],
}
_WHY = {
    400: "The body is malformed",
    401: "No valid key",
    404: "No such thing",
    405: "Not this method",
    406: "Not in this form",
    408: "The body came too slowly",
    413: "Too large",
    415: "Another kind of body",
    422: "A file or value is at fault",
    429: "All places are taken; see Retry-After",
    503: "For now no answer; see Retry-After",
    507: "The server keeps as much as it may; see Retry-After",
}


def _answers(*statuses: int, **good: Any) -> dict[int | str, dict[str, Any]]:
    refusals: dict[int | str, dict[str, Any]] = {
        status: {
            "description": _WHY[status],
            "content": {"application/json": {"schema": _ERROR}},
        }
        for status in (401, *statuses)
    }
    return {**refusals, **{int(status[1:]): answer for status, answer in good.items()}}


def _of(description: str, **contents: Any) -> dict[str, Any]:
    kinds = {
        "gzip": "application/gzip",
        "json": "application/json",
        "zip": "application/zip",
        "dicom": "application/dicom",
        "text": "text/plain",
    }
    return {
        "description": description,
        "content": {kinds[name]: {"schema": schema} for name, schema in contents.items()},
    }


_IMAGES = {
    "type": "object",
    "properties": {
        "case_id": _TEXT,
        "images": {"type": "object", "additionalProperties": _TEXT},
        "cohort": _TEXT,
        "output": _TEXT,
        "task": _TEXT,
    },
}
_FORM = {
    "type": "object",
    "properties": dict.fromkeys(("t1ce", "t2", "flair"), _BINARY)
    | {"case_id": _TEXT, "task": _TEXT, "raw": {"type": "boolean"}},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/zip": {"schema": _BINARY},
            "application/json": {"schema": _IMAGES},
        },
    },
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": _TEXT}
        for name in ("model", "task")
    ]
    + [{"name": "raw", "in": "query", "required": False, "schema": {"type": "boolean"}}],
}
_REFUSALS = (400, 404, 408, 413, 415, 422, 429, 503)

_DONE = {
    "model": _TEXT,
    "bundles": _TEXTS,
    "task": _TEXT,
    "release": _TEXT,
    "volumes_ml": _VOLUMES,
    "remarks": _TEXTS,
    "case_id": {"type": ["string", "null"]},
}
SEGMENTATION: dict[str, Any] = {
    "responses": _answers(
        *_REFUSALS,
        406,
        _200=_of(
            "The mask; of a raw study also as DICOM, or with the series that it lies on",
            gzip=_BINARY,
            json={"type": "object", "properties": _DONE},
            dicom=_BINARY,
            zip=_BINARY,
        ),
    ),
    "openapi_extra": _BODY,
}
JOB: dict[str, Any] = {
    "responses": _answers(*_REFUSALS, 507, _202=_of("Accepted", json=_JOB)),
    "openapi_extra": _BODY,
}
JOB_STATE: dict[str, Any] = {"responses": _answers(404, 422, _200=_of("The job", json=_JOB))}
MASK: dict[str, Any] = {
    "responses": _answers(
        404, 406, 422, _200=_of("The mask", gzip=_BINARY, dicom=_BINARY, zip=_BINARY)
    )
}
MODELS: dict[str, Any] = {"responses": _answers(_200=_of("Models", json={"type": "object"}))}
PHANTOM: dict[str, Any] = {"responses": _answers(_200=_of("One case", zip=_BINARY))}
_STATUS = {"type": "object", "properties": {"status": _TEXT}}
READY: dict[str, Any] = {"responses": _answers(503, _200=_of("Ready", json=_STATUS))}
METRICS: dict[str, Any] = {"responses": _answers(_200=_of("Metrics", text=_TEXT))}
