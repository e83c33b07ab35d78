"""The OpenAPI document: FastAPI's, with our problems in the place of its own errors.

Routes do not list the errors that every route may answer; they are added here, once.
"""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.api.guard import is_protected
from app.api.problems import MEDIA_TYPE, Problem

DESCRIPTION = """
Fine-tune Keras models: upload a model and data, say where to cut, what head to put on top and on what schedule
to freeze and unfreeze, watch the job, download a model that is yours.

The official `openai` package drives this API with `base_url` and `api_key` changed; `cut`, `head` and `schedule`
go through `extra_body`.

* **Creating** answers 201 with `Location`. Send an `Idempotency-Key` to make trying again safe.
* **Errors** are `application/problem+json` (RFC 9457): `errors[]` points at every wrong field at once.
* **Lists** are pages: `after`, `limit`, `order`; `last_id` of one page is `after` of the next.
* **Polling** is cheap: send the `ETag` back as `If-None-Match` and get 304 while nothing has changed.
* **Large files** go in parts to `/v1/uploads`, to any process, and go on where they were cut off.
* **Downloads** take `Range` and carry their sha256 as `ETag` and `Content-Digest`.
"""

TAGS = [
    {"name": "files", "description": "Bytes that somebody uploaded."},
    {"name": "uploads", "description": "Large files that arrive in parts, and go on where they were cut off."},
    {"name": "models", "description": "Keras models: sources that somebody registered, and results of jobs."},
    {"name": "datasets", "description": "Validated, immutable sets of examples with their splits."},
    {"name": "jobs", "description": "Fine-tuning runs."},
    {"name": "service", "description": "What this installation can do, and whether it does."},
]

ALWAYS = (401, 422, 503)
"""422: every route refuses query parameters that it does not know; 503: the database is away."""
WITH_PATH_ID = (404,)
WITH_BODY = (400, 413)
ON_CREATE = (409, 507)
ON_COMPLETE = (507,)
NEEDS_A_STATE = ("/layers", "/content", "/preview", "/report")
DOWNLOADS = ("/content", "/artifacts/{name}")


def operation_id(route: APIRoute) -> str:
    """The function's name: `create_job`, not `create_job_v1_fine_tuning_jobs_post`."""
    return route.name


def document(app: FastAPI) -> dict[str, Any]:
    """The document; made once."""
    schema = FastAPI.openapi(app)
    if Problem.__name__ not in schema["components"]["schemas"]:
        _add_problems(schema)
    return schema


def _add_problems(schema: dict[str, Any]) -> None:
    schemas = schema["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs") | {Problem.__name__: problem}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            for status in _statuses(path, method, operation):
                operation["responses"].setdefault(str(status), _answer(status))
            operation["responses"] = dict(sorted(operation["responses"].items()))
            if "201" in operation["responses"]:
                operation["responses"]["201"]["headers"] = CREATED_HEADERS


def _statuses(path: str, method: str, operation: dict[str, Any]) -> tuple[int, ...]:
    if not is_protected(path):
        return ()
    creates, changes = "201" in operation["responses"], method in {"post", "delete"}
    return (
        *ALWAYS,
        *(WITH_PATH_ID if "{" in path else ()),
        *(WITH_BODY if "requestBody" in operation else ()),
        *(ON_CREATE if creates else ()),
        *(ON_COMPLETE if path.endswith("/complete") else ()),
        *((409,) if changes or path.endswith(NEEDS_A_STATE) else ()),
        *((416,) if path.endswith(DOWNLOADS) else ()),
    )


CREATED_HEADERS = {
    "Location": {"description": "The path of what was created.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true` if this is the answer that the same `Idempotency-Key` got before.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


def _answer(status: int) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": reference}}}
