"""Models of the Hugging Face Hub, with its own client against a hub on this machine."""

import hashlib
import importlib
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import PlatformError, SourceError, UserError
from app.domain.model import ModelOptions, SourceInfo

pytestmark = pytest.mark.tensorflow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = dict[str, bytes]


class FakeHub:
    """One public repository, `owner/name`, that answers like the hub."""

    def __init__(self) -> None:
        self.files: Files = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.told_sha256: str | None = None
        """A wrong one, to be told instead of the file's own."""
        self.told_size: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 (the handler has its own `self`)
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
                hub.asked.append(path)
                hub.headers.append(dict(self.headers))
                status, headers, content = hub.answer(path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._about(parts)
        if parts[:3] == ["owner", "name", "resolve"] and parts[3] == COMMIT and "/".join(parts[4:]) in self.files:
            content = self.files["/".join(parts[4:])]
            etag = hashlib.sha256(content).hexdigest()
            return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{etag}"'}, content
        return 404, {"X-Error-Code": "EntryNotFound"}, b""

    def _about(self, parts: list[str]) -> tuple[int, dict[str, str], bytes]:
        if parts[2:4] != ["owner", "name"]:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"
        if parts[4:] not in (["revision", "main"], ["revision", "v1"], ["revision", COMMIT]):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        siblings = [self._sibling(name, content) for name, content in self.files.items()]
        about = {"id": "owner/name", "modelId": "owner/name", "sha": COMMIT, "siblings": siblings, "tags": []}
        return 200, {"Content-Type": "application/json"}, json.dumps({**about, "private": False}).encode()

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        size = len(content) if self.told_size is None else self.told_size
        sha256 = self.told_sha256 or hashlib.sha256(content).hexdigest()
        lfs = {"size": size, "sha256": sha256, "pointerSize": 130}
        return {"rfilename": name, "size": size, "blobId": "b", **({"lfs": lfs} if len(content) > 100 else {})}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    pytest.importorskip("huggingface_hub", reason="the extra 'hub' is not installed")
    found = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def mlp_file(build_mlp: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "mlp.keras"
    build_mlp().save(path)
    return path.read_bytes()


def register(reference: str, destination: Path, *, max_bytes: int = 10**9, **options: Any) -> SourceInfo:
    from worker.engine import named

    return named.register(
        reference, destination, options=ModelOptions(**options), max_parameters=10**6, max_bytes=max_bytes
    )


def test_a_model_of_the_hub_is_the_model_and_its_commit_is_noted(
    hub: FakeHub, mlp_file: bytes, build_mlp: Callable[..., Any], tmp_path: Path
) -> None:
    from worker.engine import sources

    hub.files = {"README.md": b"A model.", "deep/mlp.keras": mlp_file}
    info = register("hf://owner/name/deep/mlp.keras", tmp_path / "m", rescale="none", labels=["a", "b", "c"])
    assert (info.origin, info.format) == (f"hf://owner/name@{COMMIT}/deep/mlp.keras", "keras")
    assert (info.rescale, info.labels) == ("none", ["a", "b", "c"])
    x = np.random.default_rng(0).random((4, 6)).astype("float32")
    np.testing.assert_array_equal(sources.load(tmp_path / "m").model(x), build_mlp()(x))
    assert f"/owner/name/resolve/{COMMIT}/deep/mlp.keras" in hub.asked
    assert not any(path.endswith("README.md") for path in hub.asked), "nothing else is fetched"
    assert all("hf_secret" not in str(headers) for headers in hub.headers), "no token is sent"


@pytest.mark.parametrize(
    ("files", "reference", "chosen"),
    [
        (["a.h5", "model.keras"], "hf://owner/name", "model.keras"),
        (["config.json", "only.keras"], "hf://owner/name@v1", "only.keras"),
        (["only.keras"], f"hf://owner/name@{COMMIT}", "only.keras"),
    ],
)
def test_without_a_file_the_usual_or_the_only_one_is_meant(
    *, hub: FakeHub, mlp_file: bytes, files: list[str], reference: str, chosen: str, tmp_path: Path
) -> None:
    hub.files = dict.fromkeys(files, mlp_file)
    assert register(reference, tmp_path / "m").origin == f"hf://owner/name@{COMMIT}/{chosen}"


@pytest.mark.parametrize(
    ("reference", "files", "code", "says"),
    [
        ("hf://owner/name", ["a.keras", "b.h5"], "several_files", "hf://owner/name/a.keras, hf://owner/name/b.h5"),
        ("hf://owner/name", ["saved_model.pb", "variables/x"], "unsupported_format", "SavedModels"),
        ("hf://owner/name/b.keras", ["a.keras"], "not_found", "It has a.keras."),
        ("hf://owner/name@v2/a.keras", ["a.keras"], "not_found", "no revision 'v2'"),
        ("hf://owner/other/a.keras", ["a.keras"], "not_found", "no public repository 'owner/other'"),
        ("hf://owner/name/a.keras", ["a.keras"], "not_a_model", "This is no model that Thaw knows"),
    ],
)
def test_what_there_is_not_or_is_no_model_is_told_and_leaves_nothing(
    *, hub: FakeHub, reference: str, files: list[str], code: str, says: str, tmp_path: Path
) -> None:
    hub.files = dict.fromkeys(files, b"no model")
    with pytest.raises(UserError) as caught:
        register(reference, tmp_path / "models" / "m")
    assert says in caught.value.message
    assert caught.value.work_code == code
    assert not (tmp_path / "models").exists() or list((tmp_path / "models").iterdir()) == []


def test_a_file_above_the_limit_is_refused_before_it_is_fetched(hub: FakeHub, mlp_file: bytes, tmp_path: Path) -> None:
    hub.files = {"model.keras": mlp_file}
    with pytest.raises(SourceError, match="this service takes 1,000"):
        register("hf://owner/name", tmp_path / "m", max_bytes=1000)
    assert not any("resolve" in path for path in hub.asked)


def test_a_file_that_is_not_what_the_hub_told_of_is_not_opened(hub: FakeHub, mlp_file: bytes, tmp_path: Path) -> None:
    hub.files = {"model.keras": mlp_file}
    hub.told_sha256 = "0" * 64
    with pytest.raises(PlatformError, match="changed on the way") as caught:
        register("hf://owner/name", tmp_path / "m")
    assert caught.value.work_code == "download_failed"


def test_a_hub_that_does_not_answer_is_the_platforms_fault_and_may_be_tried_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.close()
    with pytest.raises(PlatformError, match="could not be downloaded") as caught:
        register("hf://owner/name", tmp_path / "m")
    assert (caught.value.work_code, caught.value.retryable) == ("download_failed", True)
    assert hub.url in caught.value.message


def test_without_the_extra_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def without(name: str, package: str | None = None) -> Any:
        if name == "huggingface_hub":
            raise ModuleNotFoundError(name=name)
        return found(name, package)

    found = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(PlatformError, match=r"thaw\[hub\]") as caught:
        register("hf://owner/name", tmp_path / "m")
    assert (caught.value.work_code, caught.value.retryable) == ("extra_missing", False)
