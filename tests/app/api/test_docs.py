"""`/docs` needs nothing but this service."""

import re

from fastapi.testclient import TestClient


def test_the_page_and_all_that_it_loads_come_from_here(stranger: TestClient) -> None:
    page = stranger.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/docs/start.js"} <= set(loaded)
    for address in loaded:
        assert address.startswith("/") or address == "data:,"
        if address.startswith("/"):
            assert stranger.get(address).status_code == 200, address
    assert "//" not in page.text.replace("<!doctype html>", "")


def test_the_page_allows_no_script_but_ours(stranger: TestClient) -> None:
    page = stranger.get("/docs")
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert not re.search(r"<script>|<script [^>]*>[^<]", page.text)


def test_the_page_shows_this_services_document(stranger: TestClient) -> None:
    start = stranger.get("/docs/start.js")
    assert 'url: "/openapi.json"' in start.text
    assert start.headers["Content-Type"].startswith("text/javascript")
