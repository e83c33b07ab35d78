"""What `thaw up` waits for."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from app.standalone.readiness import ApiProbe

SERVED = {"workers": [{"id": "w1", "queues": ["cpu", "prepare"], "live": True}]}


def part(name: str, *, ok: bool = True) -> dict[str, object]:
    return {"name": name, "ok": ok, "detail": "fine" if ok else "does not answer", "needed": name == "store"}


@pytest.mark.parametrize(
    ("parts", "capabilities", "missing"),
    [
        ([part("store"), part("broker")], SERVED, None),
        ([part("store"), part("broker", ok=False)], SERVED, "broker: does not answer"),
        ([part("store", ok=False)], SERVED, "/readyz says 503"),
        ([part("store"), part("broker")], {"workers": []}, "no worker serves cpu, prepare yet"),
    ],
)
def test_all_parts_are_waited_for_those_too_that_a_ready_service_can_do_without(
    tmp_path: Path, parts: list[dict[str, object]], capabilities: dict[str, object], missing: str | None
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/capabilities":
            return httpx2.Response(200, json=capabilities)
        ready = all(each["ok"] for each in parts if each["needed"])
        return httpx2.Response(200 if ready else 503, json={"parts": parts})

    async def ask() -> str | None:
        probe = ApiProbe("http://thaw.test", key_file=tmp_path / "key", queues=frozenset({"cpu", "prepare"}))
        await probe.close()
        probe._client = httpx2.AsyncClient(base_url="http://thaw.test", transport=httpx2.MockTransport(answer))
        try:
            return await probe.ready()
        finally:
            await probe.close()

    (tmp_path / "key").write_text("thaw_key")
    found = asyncio.run(ask())
    assert (found or "").startswith(missing or "")
    assert (found is None) == (missing is None)
