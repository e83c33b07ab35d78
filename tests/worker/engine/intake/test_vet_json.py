import json

import pytest

from app.domain.errors import SourceError
from worker.engine.intake.vet_json import parse_json


def test_json_is_read_as_it_stands() -> None:
    assert parse_json(b'{"a": [1, 2.5, null, true, "x"]}', name="config.json") == {"a": [1, 2.5, None, True, "x"]}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (b'{"a": 1, "a": 2}', "unsafe_file", "twice"),
        (b'{"a": {"b": 1, "b": 1}}', "unsafe_file", "twice"),
        (b'{"a": NaN}', "unsafe_file", "NaN"),
        (b"[-Infinity]", "unsafe_file", "Infinity"),
        (b"[1e999]", "unsafe_file", "too large"),
        (b"[99999999999999999999]", "unsafe_file", "integer"),
        (b"[" * 100 + b"]" * 100, "unsafe_file", "levels"),
        (b"[" * 100_000, "unsafe_file", "deeply"),
        (b"[" + b"0," * 600_000 + b"0]", "unsafe_file", "values"),
        (json.dumps(["x" * 10_000]).encode(), "unsafe_file", "text of 10000"),
        (b" " * (9 * 1024**2), "unsafe_file", "bytes"),
        (b"{", "corrupt_file", "not JSON"),
        (b"\xff\xfe\xff", "corrupt_file", "not JSON"),
    ],
    ids=range(13),
)
def test_json_that_no_keras_writes_is_refused(text: bytes, code: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        parse_json(text, name="config.json")
    assert caught.value.work_code == code
