"""The OpenAPI document is the manual: complete, with an example for every body and a word for every field."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openapi_spec_validator import validate

from app.main import create_app
from app.settings import Settings

METHODS_WITH_BODY = {"post"}
BODILESS = {"cancel_job", "pause_job", "resume_job", "cancel_upload"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def reachable(document: dict[str, Any], node: Any, seen: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema with properties that `node` refers to, by name."""
    if isinstance(node, list):
        for item in node:
            yield from reachable(document, item, seen)
    elif isinstance(node, dict):
        name = str(node.get("$ref", "")).rpartition("/")[2]
        if name and name not in seen:
            seen.add(name)
            schema = document["components"]["schemas"][name]
            yield name, schema
            yield from reachable(document, schema, seen)
        for key, value in node.items():
            if key not in {"examples", "example", "default"}:
                yield from reachable(document, value, seen)


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_operations_have_readable_ids_summaries_and_one_tag(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for path, _, operation in operations(document):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", operation["operationId"]), path
        assert operation["description"], path
        assert len(operation["tags"]) == 1, path


def test_every_body_has_an_example(document: dict[str, Any]) -> None:
    bodies = 0
    for path, method, operation in operations(document):
        if method not in METHODS_WITH_BODY or operation["operationId"] in BODILESS:
            assert "requestBody" not in operation, path
            continue
        bodies += 1
        (content,) = operation["requestBody"]["content"].values()
        schema = content["schema"]
        named = document["components"]["schemas"].get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
        assert content.get("example") or content.get("examples") or named.get("examples"), path
    assert bodies == 10


def test_the_examples_of_jobs_are_accepted_as_far_as_their_ids_go(client: TestClient, document: dict[str, Any]) -> None:
    examples = document["paths"]["/v1/fine_tuning/jobs"]["post"]["requestBody"]["content"]["application/json"]
    for name, example in examples["examples"].items():
        response = client.post("/v1/fine_tuning/jobs", json=example["value"])
        assert {problem["code"] for problem in response.json()["errors"]} == {"unknown_id"} or {
            problem["pointer"] for problem in response.json()["errors"]
        } <= {"/model", "/training_file"}, name


def test_every_field_of_every_body_and_answer_is_described(document: dict[str, Any]) -> None:
    undescribed = [
        f"{name}.{field}"
        for name, schema in reachable(document, [operation for *_, operation in operations(document)], set())
        for field, definition in schema.get("properties", {}).items()
        if not definition.get("description")
    ]
    assert undescribed == []


def test_every_field_of_a_body_has_an_example_a_default_or_a_list_of_values(document: dict[str, Any]) -> None:
    telling = {"examples", "default", "const", "enum", "$ref", "anyOf", "items", "oneOf"}
    bodies = [operation["requestBody"] for *_, operation in operations(document) if "requestBody" in operation]
    silent = [
        f"{name}.{field}"
        for name, schema in reachable(document, bodies, set())
        for field, definition in schema.get("properties", {}).items()
        if not telling & set(definition)
    ]
    assert silent == []


def test_every_parameter_is_described(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (path, parameter["name"])


def test_errors_are_documented_as_problems(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and path != "/readyz":
                assert list(response["content"]) == ["application/problem+json"], (path, status)
    create = document["paths"]["/v1/fine_tuning/jobs"]["post"]["responses"]
    assert set(create) == {"201", "400", "401", "409", "413", "422", "503", "507"}
    assert set(create["201"]["headers"]) == {"Location", "Idempotency-Replayed"}


def test_fastapis_own_error_shape_is_nowhere(document: dict[str, Any]) -> None:
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])


def test_it_is_served_and_asking_twice_gives_the_same(client: TestClient, document: dict[str, Any]) -> None:
    served = client.get("/openapi.json")
    assert served.json() == json.loads(json.dumps(document))
    assert client.get("/openapi.json").content == served.content
