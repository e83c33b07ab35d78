"""A Thaw service in memory, that speaks the wire format, and clients of it."""

import base64
import email.message
import email.parser
import email.policy
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx2
import pytest

from thaw import Client
from thaw.connection import Connection
from thaw.location import Location

URL = "http://thaw.test"
KEY = "thaw_secret"
Json = dict[str, object]
Answer = httpx2.Response | Exception


class Cut(httpx2.SyncByteStream):
    """A body that breaks off in the middle."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        message = "peer closed connection without sending complete message body"
        raise httpx2.RemoteProtocolError(message)


class FakeService:
    """Files, models, datasets and jobs in dictionaries. What is asked of it stands in `requests`.

    `answers` come first, one for each request, whatever it is: failures, or answers of another service.
    """

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.answers: list[Answer | None] = []
        self.files: dict[str, Json] = {}
        self.contents: dict[str, bytes] = {}
        self.models: dict[str, Json] = {}
        self.datasets: dict[str, Json] = {}
        self.jobs: dict[str, Json] = {}
        self.events: dict[str, list[Json]] = {}
        self.artifacts: dict[str, dict[str, bytes]] = {}
        self.key = KEY
        self.unusable: Json | None = None
        """The failure of every model and dataset that is made."""
        self.checks = 0
        """How often a model or dataset is asked for before its check is over."""
        self._numbers = itertools.count(1)
        self._stored_answers: dict[str, httpx2.Response] = {}

    @property
    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(lambda request: streamed(self.handle(request)))

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        planned = self.answers.pop(0) if self.answers else None
        if isinstance(planned, Exception):
            raise planned
        if planned is not None:
            return planned
        if request.url.path != "/readyz" and request.headers.get("authorization") != f"Bearer {self.key}":
            return problem(401, "invalid_api_key", "The API key is not valid.")
        return self._once(request)

    def _once(self, request: httpx2.Request) -> httpx2.Response:
        key = request.headers.get("idempotency-key")
        if key is None:
            return self._route(request)
        if key not in self._stored_answers:
            self._stored_answers[key] = self._route(request)
        stored = self._stored_answers[key]
        return httpx2.Response(stored.status_code, content=stored.content, headers=stored.headers)

    def _route(self, request: httpx2.Request) -> httpx2.Response:
        routes: dict[str, Callable[..., httpx2.Response]] = {
            r"POST /v1/files": self._upload,
            r"GET /v1/files/([^/]+)/content": lambda request, name: content(request, self.contents[name]),
            r"POST /v1/models": lambda request: self._prepare(request, "model", self.models),
            r"POST /v1/datasets": lambda request: self._prepare(request, "ds", self.datasets),
            r"GET /v1/catalogue": lambda _: listed(CATALOGUE),
            r"GET /v1/(models|datasets)/([^/]+)": self._prepared,
            r"GET /v1/models/([^/]+)/layers": lambda _, name: listed(layers(name)),
            r"GET /v1/models/([^/]+)/content": lambda request, name: content(
                request,
                self.contents[request.url.params.get("format") or str(self.models[name]["file"])],
                f'attachment; filename="model.{request.url.params.get("format", "keras")}"',
            ),
            r"GET /v1/datasets/([^/]+)/preview": lambda _, _name: listed(PREVIEW),
            r"POST /v1/fine_tuning/jobs": self._create_job,
            r"POST /v1/fine_tuning/jobs/plan": lambda _: httpx2.Response(200, json=PLAN),
            r"POST /v1/fine_tuning/jobs/([^/]+)/cancel": self._cancel,
            r"POST /v1/fine_tuning/jobs/([^/]+)/pause": self._pause,
            r"POST /v1/fine_tuning/jobs/([^/]+)/resume": self._resume,
            r"POST /v1/fine_tuning/jobs/([^/]+)/(retry|fork)": self._again,
            r"GET /v1/fine_tuning/jobs/([^/]+)/events": self._events,
            r"GET /v1/fine_tuning/jobs/([^/]+)/metrics": lambda request, _name: page(request, METRICS, "number"),
            r"GET /v1/fine_tuning/jobs/([^/]+)/artifacts": self._artifacts,
            r"GET /v1/fine_tuning/jobs/([^/]+)/artifacts/([^/]+)": lambda request, job, name: content(
                request, self.artifacts[job][name]
            ),
            r"GET /v1/(files|models|datasets|fine_tuning/jobs)": self._list,
            r"(GET|DELETE) /v1/(files|models|datasets|fine_tuning/jobs)/([^/]+)": self._one,
            r"GET /v1/capabilities": lambda _: httpx2.Response(200, json=CAPABILITIES),
            r"GET /readyz": lambda _: httpx2.Response(200, json={"status": "ready", "parts": []}),
        }
        for pattern, answer in routes.items():
            found = re.fullmatch(pattern, f"{request.method} {request.url.path}")
            if found:
                return answer(request, *found.groups())
        return problem(404, "not_found", f"Nothing is at {request.url.path}.")

    def new_id(self, prefix: str) -> str:
        return f"{prefix}-{next(self._numbers):026d}"

    def add_job(self, **members: object) -> str:
        """A job that somebody made before."""
        name = self.new_id("ftjob")
        self.jobs[name] = {**JOB, "id": name, "created_at": 1_700_000_000 + len(self.jobs), **members}
        self.events[name] = []
        self.artifacts[name] = {}
        return name

    def add_model(self, **members: object) -> str:
        """A model that is ready."""
        name = self.new_id("model")
        self.models[name] = {**model(name, file=None), **members}
        return name

    def happen(self, job: str, kind: str, message: str = "", **data: object) -> None:
        """An event of a job."""
        number = len(self.events[job]) + 1
        event = {"number": number, "type": kind, "message": message or kind, "level": "info", "created_at": 0}
        self.events[job].append({"id": f"ftevent-x-{number:08d}", **event, "data": data})

    def _upload(self, request: httpx2.Request) -> httpx2.Response:
        filename, body = uploaded(request)
        name = self.new_id("file")
        self.contents[name] = body
        digest = hashlib.sha256(body).hexdigest()
        file = {"id": name, "object": "file", "bytes": len(body), "created_at": 1, "sha256": digest}
        self.files[name] = {**file, "filename": filename, "purpose": "fine-tune", "status": "processed"}
        return httpx2.Response(201, json=self.files[name])

    def _prepare(self, request: httpx2.Request, prefix: str, things: dict[str, Json]) -> httpx2.Response:
        asked = json.loads(request.content)
        name = self.new_id(prefix)
        source = {field: asked[field] for field in ("file", "reference") if field in asked}
        source = {"file": None, **source}
        done = {
            **(model(name, **source) if prefix == "model" else dataset(name, **source)),
            "name": asked.get("name") or "upload",
            "asked": asked,
        }
        if self.unusable:
            done |= {"status": "failed", "error": self.unusable}
        things[name] = {**done, "checks": self.checks}
        return httpx2.Response(201, json={**done, "status": "validating", "error": None})

    def _prepared(self, request: httpx2.Request, kind: str, name: str) -> httpx2.Response:
        things = self.models if kind == "models" else self.datasets
        if name not in things:
            return problem(404, "not_found", f"There is no {kind.removesuffix('s')} '{name}'.")
        thing = things[name]
        left = thing.get("checks", 0)
        if isinstance(left, int) and left > 0:
            thing["checks"] = left - 1
            return tagged(request, {**thing, "status": "validating"})
        return tagged(request, thing)

    def _create_job(self, request: httpx2.Request) -> httpx2.Response:
        asked = json.loads(request.content)
        name = self.add_job(**asked)
        return httpx2.Response(201, json=self.jobs[name])

    def _cancel(self, _request: httpx2.Request, name: str) -> httpx2.Response:
        job = self.jobs[name]
        if job["status"] == "succeeded":
            return problem(409, "invalid_state_transition", "It has succeeded.", allowed_actions=[])
        job |= {"cancel_requested_at": 5}
        return httpx2.Response(200, json=job)

    def _pause(self, _request: httpx2.Request, name: str) -> httpx2.Response:
        job = self.jobs[name]
        if job["status"] == "succeeded":
            return problem(409, "invalid_state_transition", "It has succeeded.", allowed_actions=[])
        job |= {"pause_requested_at": 5} if job["status"] == "running" else {"status": "paused"}
        return httpx2.Response(200, json=job)

    def _resume(self, _request: httpx2.Request, name: str) -> httpx2.Response:
        job = self.jobs[name]
        job |= {"status": "queued", "pause_requested_at": None}
        return httpx2.Response(200, json=job)

    def _again(self, request: httpx2.Request, name: str, how: str) -> httpx2.Response:
        job = self.jobs[name]
        if job["status"] == "running" and how == "retry":
            return problem(409, "invalid_state_transition", "It is running.", allowed_actions=["cancel"])
        asked = json.loads(request.content)
        origin = {"retry_of": name} if how == "retry" else {"forked_from": {"job": name, "checkpoint": "ckpt-1"}}
        return httpx2.Response(201, json=self.jobs[self.add_job(**{"seed": job.get("seed"), **asked, **origin})])

    def _events(self, request: httpx2.Request, job: str) -> httpx2.Response:
        if job not in self.jobs:
            return problem(404, "not_found", f"There is no job '{job}'.")
        if "text/event-stream" not in request.headers["accept"]:
            return page(request, self.events[job], "id")
        last = int(request.headers.get("last-event-id", 0))
        if self.jobs[job]["status"] == "succeeded" and last >= len(self.events[job]):
            return httpx2.Response(204)
        return stream(self.events[job][last:])

    def _artifacts(self, _request: httpx2.Request, job: str) -> httpx2.Response:
        if job not in self.artifacts:
            return problem(404, "not_found", f"There is no job '{job}'.")
        return listed(
            [
                {"name": name, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(), "url": "/…"}
                for name, body in self.artifacts[job].items()
            ]
        )

    def _list(self, request: httpx2.Request, kind: str) -> httpx2.Response:
        things = list(self._things(kind).values())
        wanted = request.url.params.get("status")
        found = [thing for thing in things if wanted in {None, thing.get("status")}]
        return page(request, found[::-1] if request.url.params.get("order") == "desc" else found, "id")

    def _one(self, request: httpx2.Request, method: str, kind: str, name: str) -> httpx2.Response:
        things = self._things(kind)
        if name not in things:
            return problem(404, "not_found", f"There is no {kind.removesuffix('s')} '{name}'.")
        if method == "DELETE":
            del things[name]
            return httpx2.Response(200, json={"id": name, "deleted": True})
        return tagged(request, things[name])

    def _things(self, kind: str) -> dict[str, Json]:
        return {
            "files": self.files, "models": self.models, "datasets": self.datasets, "fine_tuning/jobs": self.jobs,
        }[kind]  # fmt: skip


# === Answers ===


def streamed(response: httpx2.Response) -> httpx2.Response:
    """The same answer with a body that is still to come, as from a network."""
    if not response.is_stream_consumed:
        return response
    headers = {**response.headers, "content-length": str(len(response.content))}
    return httpx2.Response(response.status_code, headers=headers, stream=httpx2.ByteStream(response.content))


def problem(status: int, code: str, detail: str, **more: object) -> httpx2.Response:
    body = {"status": status, "code": code, "detail": detail, "title": "No", "request_id": "req-1", **more}
    return httpx2.Response(status, json=body, headers={"content-type": "application/problem+json"})


def tagged(request: httpx2.Request, thing: Mapping[str, object]) -> httpx2.Response:
    body = json.dumps(thing).encode()
    tag = f'"{hashlib.sha256(body).hexdigest()}"'
    if request.headers.get("if-none-match") == tag:
        return httpx2.Response(304, headers={"etag": tag})
    return httpx2.Response(200, content=body, headers={"etag": tag, "content-type": "application/json"})


def listed(things: list[Json]) -> httpx2.Response:
    return httpx2.Response(200, json={"object": "list", "data": things, "has_more": False})


def page(request: httpx2.Request, things: list[Json], name: str) -> httpx2.Response:
    after, limit = request.url.params.get("after"), int(request.url.params.get("limit", 20))
    names = [str(thing[name]) for thing in things]
    start = names.index(after) + 1 if after else 0
    data = things[start : start + limit]
    last = str(data[-1][name]) if data else None
    more = start + limit < len(things)
    return httpx2.Response(200, json={"object": "list", "data": data, "last_id": last, "has_more": more})


def stream(events: list[Json]) -> httpx2.Response:
    return httpx2.Response(200, content=frames(events), headers={"content-type": "text/event-stream; charset=utf-8"})


def frames(events: list[Json]) -> bytes:
    """Events as they go over the wire, with a heartbeat between them."""
    parts = (
        f"id: {event['number']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n: ping\n\n" for event in events
    )
    return "".join(parts).encode()


def content(request: httpx2.Request, body: bytes, disposition: str = "attachment") -> httpx2.Response:
    """A download with Range, as the service answers it."""
    digest = hashlib.sha256(body)
    headers = {
        "etag": f'"{digest.hexdigest()}"',
        "repr-digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
        "content-disposition": disposition,
    }
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
    if asked and request.headers.get("if-range") == headers["etag"]:
        start = int(asked[1])
        part = {"content-range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        return httpx2.Response(206, content=body[start:], headers={**headers, **part})
    return httpx2.Response(200, content=body, headers=headers)


def uploaded(request: httpx2.Request) -> tuple[str, bytes]:
    """The name and the bytes of the file in a multipart body."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.content)
    part = next(part for part in form.iter_parts() if part.get_param("name", header="content-disposition") == "file")
    body = part.get_payload(decode=True)
    assert isinstance(body, bytes)
    return str(part.get_filename()), body


# === What the service knows ===


def model(name: str, *, file: str | None, reference: str | None = None) -> Json:
    summary = {
        "format": "keras", "class_name": "Sequential", "input_shape": [None, 8, 8, 1], "output_shape": [None, 8],
        "parameters": 12_345, "layers": 3, "digest": "d" * 64, "upgrades": [],
    }  # fmt: skip
    about = {"id": name, "object": "model", "created_at": 1, "name": "digits", "status": "ready", "file": file}
    return {
        **about,
        "reference": reference,
        "job": None,
        "error": None,
        "rescale": None,
        "labels": None,
        "formats": ["keras"],
        "summary": summary,
    }


def dataset(name: str, *, file: str | None) -> Json:
    splits = {
        "train": {"examples": 250, "class_counts": {"8": 120, "9": 130}},
        "validation": {"examples": 50, "class_counts": {"8": 25, "9": 25}},
    }
    about = {"id": name, "object": "dataset", "created_at": 1, "name": "digits", "status": "ready", "file": file}
    found = {"kind": "arrays", "task": "binary", "classes": ["8", "9"], "splits": splits, "example_shape": [8, 8, 1]}
    rest = {"dtype": "float32", "value_range": [0, 16], "corrupt_count": 0, "warnings": ["It is small."]}
    return {**about, "error": None, **found, **rest}


def layers(_model: str) -> list[Json]:
    return [
        {"index": 0, "path": "flatten", "class_name": "Flatten", "output_shape": [None, 64], "parameters": 0,
         "has_weights": False, "legal_cut": True, "illegal_because": None},
        {"index": 1, "path": "inner/dense", "class_name": "Dense", "output_shape": [None, 32], "parameters": 2080,
         "has_weights": True, "legal_cut": False, "illegal_because": "a branch goes around it"},
    ]  # fmt: skip


CATALOGUE: list[Json] = [
    {"id": "keras:MobileNet", "parameters": 4_253_864, "input_size": 224, "options": {"alpha": ["1", "0.25"]}},
    {"id": "keras:VGG16", "parameters": 138_357_544, "input_size": 224, "options": {}},
]
PREVIEW: list[Json] = [{"split": "train", "index": 0, "label": "8", "shape": [8, 8, 1], "values": [0.0]}]
METRICS: list[Json] = [
    {"number": number, "attempt": 1, "created_at": 2, "step": 10 * number, "metrics": {"loss": 1 / number},
     "phase": {"index": 1, "name": "head", "epoch": number, "epochs": 4}}
    for number in range(1, 5)
]  # fmt: skip
SCHEDULE: list[Json] = [
    {"name": "head", "unfreeze": "none", "epochs": 4, "optimizer": {"type": "sgd", "learning_rate": 0.01}},
    {"name": "all", "unfreeze": {"last": 2}, "epochs": 16, "optimizer": {"type": "sgd", "learning_rate": 0.0001}},
]
JOB: Json = {
    "object": "fine_tuning.job", "status": "queued", "model": "model-1", "training_file": "ds-1",
    "model_id": "model-1", "dataset_id": "ds-1", "fine_tuned_model": None, "started_at": None, "finished_at": None,
    "error": None, "cut": {"drop_last": 1}, "head": {"layers": []}, "schedule": SCHEDULE, "batch_size": 32,
    "seed": 42, "suffix": None, "metadata": {}, "stage": None, "phase": None,
    "progress": {"percent": 0.0, "eta_seconds": None, "queue_position": 2},
    "attempt": {"number": 0, "worker": None, "lease_expires_at": None}, "cancel_requested_at": None,
    "allowed_actions": ["cancel"], "artifacts": [], "report": None,
}  # fmt: skip
PROOF = {"phase": "head", "held": True, "frozen_variables": 6, "trained_variables": 2, "moved_variables": 2}
REPORT: Json = {
    "task": "binary", "test": {"examples": 54, "loss": 0.1, "accuracy": {"value": 0.98, "low": 0.9, "high": 0.99}},
    "source": {"unchanged": True}, "phases": [{"name": "head", "epochs_run": 4, "proof": PROOF}],
    "exports": [
        {"format": "onnx", "status": "succeeded", "file": "model.onnx", "examples": 54, "difference": 1.5e-6,
         "agreement": 1.0},
        {"format": "litert", "status": "failed", "reason": "It differs."},
    ],
}  # fmt: skip


def _layer(path: str, state: str, why: str, **more: object) -> Json:
    kinds = {"in": ("InputLayer", 0), "norm": ("BatchNormalization", 16), "output": ("Dense", 5)}
    class_name, parameters = kinds.get(path, ("Dense", 20))
    part = "head" if path == "output" else "backbone"
    common: Json = {"path": path, "class_name": class_name, "part": part, "parameters": parameters}
    trained = {"trained_parameters": parameters if state == "trains" else 0}
    return {**common, **trained, "state": state, "because": why, "learning_rate": None, "cached": False, **more}


PLAN: Json = {
    "object": "fine_tuning.job.plan", "cut_layer": "dense_2", "dropped_layers": ["dense_3"], "seconds": 82,
    "output": "sigmoid over 2 classes", "warnings": ["The learning rate does not fall."], "spec": {"seed": 42},
    "phases": [
        {"name": "head", "epochs": 4, "optimizer": "sgd", "learning_rate": 0.01, "unfrozen_layers": [],
         "held_layers": [], "frozen_layers": 2, "trainable_backbone_parameters": 0, "trainable_parameters": 5,
         "boundary": ["dense_2"], "cache": {"applies": True, "because": "the same", "bytes": 6400},
         "memory": {"total_bytes": 1200}, "time": {"seconds": 7, "origin": "jobs", "device": "cpu"},
         "layers": [
            _layer("in", "weightless", "no weights", cached=True),
            _layer("norm", "frozen", "not unfrozen", cached=True),
            _layer("dense_2", "frozen", "not unfrozen", cached=True),
            _layer("output", "trains", "the head always trains", learning_rate=0.01)]},
        {"name": "all", "epochs": 16, "optimizer": "sgd", "learning_rate": 0.0001, "held_layers": ["norm"],
         "unfrozen_layers": ["norm", "dense_2"], "frozen_layers": 0, "trainable_backbone_parameters": 40,
         "trainable_parameters": 45, "boundary": ["in"],
         "cache": {"applies": False, "because": "nothing is the same in every epoch", "bytes": None},
         "memory": {"total_bytes": 2000}, "time": {"seconds": 75, "origin": "probe", "device": "cpu"},
         "layers": [
            _layer("in", "weightless", "no weights"),
            _layer("norm", "held", "held"),
            _layer("dense_2", "trains", "unfrozen", learning_rate=5e-5),
            _layer("output", "trains", "the head always trains", learning_rate=1e-4)]},
    ],
}  # fmt: skip
CAPABILITIES: Json = {
    "object": "capabilities", "version": "0.1.0", "kinds": ["images", "arrays"], "tasks": ["binary"],
    "optimizers": ["sgd"], "head_layers": ["dense"], "limits": {"max_upload_bytes": 5},
    "workers": [{"id": "worker-1", "queues": ["cpu"], "devices": ["cpu"], "live": True, "new_member": 1}],
}  # fmt: skip


# === Fixtures ===


@pytest.fixture(autouse=True)
def _no_service_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests must not find a service that happens to run on this machine."""
    for name in ("THAW_URL", "THAW_API_KEY", "THAW_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("THAW_DATA_DIR", str(tmp_path / "no-service"))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between tries: nobody really waits."""
    waited: list[float] = []
    defaults = Connection.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "sleep", waited.append)
    return waited


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService, pauses: list[float]) -> Iterator[Client]:
    del pauses
    with Client(URL, KEY, transport=service.transport) as opened:
        yield opened


@pytest.fixture
def connection(service: FakeService, pauses: list[float]) -> Iterator[Connection]:
    del pauses
    opened = Connection(Location(URL, KEY, "a test"), transport=service.transport)
    yield opened
    opened.close()
