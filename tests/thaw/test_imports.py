"""What people install must start fast, and must not need the server's packages."""

import json
import subprocess
import sys

import thaw

FORBIDDEN = {
    "app", "worker", "pydantic", "pydantic_settings", "fastapi", "starlette", "uvicorn", "celery", "sqlalchemy",
    "redis", "tensorflow", "keras", "numpy",
}  # fmt: skip
LATE = {"httpx2", "rich", "yaml", "platformdirs"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running the code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(answer.stdout))


def test_the_package_and_its_command_line_load_neither_the_server_nor_anything_heavy() -> None:
    modules = loaded_by("import thaw, thaw.cli")
    assert modules & (FORBIDDEN | LATE) == set()
    assert "typer" in modules


def test_the_client_loads_nothing_of_the_server() -> None:
    modules = loaded_by("from thaw import Client; Client('http://127.0.0.1:1', 'key').close()")
    assert modules & FORBIDDEN == set()
    assert "httpx2" in modules


def test_every_exported_name_is_there() -> None:
    assert {name: getattr(thaw, name) for name in thaw.__all__}.keys() == set(thaw.__all__)
    assert sorted(thaw.__all__) == thaw.__all__
    assert dir(thaw) == thaw.__all__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(thaw, "Clinet")


def test_every_error_class_is_exported() -> None:
    errors = {name for name in vars(thaw.errors) if name.endswith("Error")}
    assert errors <= set(thaw.__all__)
