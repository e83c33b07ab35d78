"""What `thaw up` waits for."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from app.main import create_app
from app.services import health
from app.services.health import PartHealth
from app.settings import Settings
from app.standalone.readiness import ApiProbe

SERVED = {"workers": [{"id": "w1", "queues": ["cpu", "prepare"], "live": True}]}


def part(name: str, *, ok: bool = True) -> dict[str, object]:
    detail = "fine" if ok else "does not answer"
    return {"name": name, "ok": ok, "detail": detail, "needed": name == "store", "out_of_room": False}


@pytest.mark.parametrize(
    ("parts", "capabilities", "missing"),
    [
        ([part("store"), part("broker")], SERVED, None),
        ([part("store"), part("broker", ok=False)], SERVED, "broker: does not answer"),
        ([part("store", ok=False)], SERVED, "store: does not answer"),
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


@pytest.mark.parametrize("also", [None, "broker: gone"])
def test_a_service_that_lacks_only_room_is_started_so_that_people_can_make_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, also: str | None
) -> None:
    settings = Settings(data_dir=tmp_path, api_key="k" * 40, min_free_disk_bytes=10**18)
    broker = PartHealth("broker", ok=also is None, detail="gone", needed=False)
    monkeypatch.setattr(health, "broker", lambda _: broker)
    (tmp_path / "key").write_text("k" * 40)
    app, url = create_app(settings), "http://127.0.0.1:8420"

    async def ask() -> tuple[str | None, str | None]:
        probe = ApiProbe(url, key_file=tmp_path / "key", queues=frozenset())
        await probe.close()
        probe._client = httpx2.AsyncClient(base_url=url, transport=httpx2.ASGITransport(app))
        try:
            async with app.router.lifespan_context(app):
                return await probe.ready(), probe.out_of_room
        finally:
            await probe.close()

    missing, out_of_room = asyncio.run(ask())
    assert missing == also
    if also is None:
        assert (out_of_room or "").count("at least 1,000,000,000,000,000,000 are kept free") == 2
        assert (out_of_room or "").startswith("database: ")
