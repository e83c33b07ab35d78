"""How an upload in parts is given up."""

import io
from collections.abc import Mapping
from typing import Any, cast

import pytest

from thaw.connection import Connection
from thaw.errors import ApiError, ConnectionFailedError, ThawClientError
from thaw.parts import Sending, plan

CONTENT = b"shoes"


class FakeConnection:
    """One upload; its parts cannot become a file, and then the service is away."""

    def __init__(self, status: str) -> None:
        self.posted: list[str] = []
        self._upload = {"id": "upload-1", "status": status, "bytes": len(CONTENT), "filename": "shoes.zip"}

    def get(self, path: str, **_: object) -> Mapping[str, object]:
        return self._upload if path.endswith("upload-1") else {"object": "list", "data": [], "has_more": False}

    def post(self, path: str, **_: object) -> Mapping[str, object]:
        self.posted.append(path)
        if path.endswith("cancel"):
            message = "The service is away."
            raise ConnectionFailedError(message, reached=False)
        return self._upload

    def insist(self, call: Any) -> object:
        if "_complete" not in call.__qualname__:
            return {"id": "part-1", "number": 1, "bytes": len(CONTENT), "sha256": "0"}
        message = "These parts make another file."
        raise ApiError(message, status=422, code="corrupt_artifact")


def sending(connection: FakeConnection) -> Sending:
    file = io.BytesIO(CONTENT)
    planned = plan(file, filename="shoes.zip", purpose="fine-tune", part_bytes=10)
    return Sending(cast("Connection", connection), file, planned)


def test_why_an_upload_is_given_up_is_told_also_if_it_cannot_be_cancelled() -> None:
    connection = FakeConnection("pending")
    with pytest.raises(ApiError, match="another file"):
        sending(connection).run()
    assert connection.posted[-1] == "/v1/uploads/upload-1/cancel"


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_the_key_of_an_upload_that_has_ended_is_refused_with_what_to_do(status: str) -> None:
    connection = FakeConnection(status)
    with pytest.raises(ThawClientError, match=f"is {status}. Take a new key"):
        sending(connection).run(idempotency_key="mine")
    assert connection.posted == ["/v1/uploads"]
