"""One large upload and download: memory, and how fast, against the least that FastAPI can do.

The bare upload writes the body to a file while it arrives; it hashes nothing and parses no form. It is measured twice:
as such, and synced to the disk at the end, as Thaw's is before it is answered. The bare download is a FileResponse.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from connection import Connection
from figures import Line, Taken, in_turns, times
from servers import Server
from sites import Bench

PIECE_BYTES = 1024**2
BOUNDARY = "thaw-benchmark"
FORM = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="large.bin"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
END = f"\r\n--{BOUNDARY}--\r\n".encode()


def measure(bench: Bench) -> list[Line]:
    """In turns; the medians are compared."""
    site = bench.site("transferring")
    size, rounds = bench.sizes.transfer_bytes, bench.sizes.rounds
    taken: dict[str, list[float]] = {name: [] for name in ("up", "bare up", "bare synced", "down", "bare down")}
    peaks: dict[str, float] = {}
    with site.api() as api, api.connect() as thaw, bench.bare.connect() as bare:
        before = api.resident_bytes / 2**20
        for number in range(rounds):
            with _timed(taken["bare up"]):
                bare.upload(*_plain(bare, size, number))
            _settle(bench.folder)
            with _timed(taken["bare synced"]):
                bare.upload(*_plain(bare, size, number, synced=True))
            _settle(bench.folder)
            with _timed(taken["up"]), _peak(api, "upload", peaks):
                path = thaw.upload(*_form(thaw, size, number)).header("location") + "/content"
            _settle(bench.folder)
            with _timed(taken["bare down"]):
                assert bare.drain(bare.request("GET", "/download")) == size
            with _timed(taken["down"]), _peak(api, "download", peaks):
                assert thaw.drain(thaw.request("GET", path)) == size
        ranges = _ranges(thaw, bare, path, size, turns=bench.sizes.turns // 5)
    rate = {name: size / 2**20 / statistics.median(seconds) for name, seconds in taken.items()}
    gib = f"{size / 2**30:g} GiB"
    return [
        _faster(f"{gib} up", rate, "up", "bare synced", "bare route, synced"),
        _faster(f"{gib} up", rate, "up", "bare up", "bare route, not synced"),
        _faster(f"{gib} down", rate, "down", "bare down", "FileResponse"),
        times("the last MiB by Range", ranges["thaw"], against="FileResponse", other=ranges["bare"]),
        *(
            Line(f"memory of the API, peak of the {what}", "MiB", {"": peak}, "before", {"": before})
            for what, peak in peaks.items()
        ),
    ]


def _faster(what: str, rate: dict[str, float], ours: str, other: str, against: str) -> Line:
    return Line(what, "MiB/s", {"": rate[ours]}, against, {"": rate[other]})


@contextlib.contextmanager
def _timed(taken: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    taken.append(time.perf_counter() - started)


@contextlib.contextmanager
def _peak(api: Server, what: str, peaks: dict[str, float]) -> Iterator[None]:
    api.forget_peak()
    yield
    peaks[what] = max(peaks.get(what, 0.0), api.peak_bytes / 2**20)


def _settle(folder: Path) -> None:
    """What one side has left to be written must not slow down the other."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    os.sync()


# === Bodies ===


def _pieces(size: int, number: int) -> Iterator[bytes]:
    """Random bytes, other ones for each number: what is stored already would not be written again."""
    block = os.urandom(PIECE_BYTES - 8)
    for place in range(size // PIECE_BYTES):
        yield number.to_bytes(4) + place.to_bytes(4) + block


def _plain(connection: Connection, size: int, number: int, *, synced: bool = False) -> tuple[bytes, Iterator[bytes]]:
    path = f"/upload?synced={str(synced).lower()}"
    return connection.head("POST", path, {"Content-Length": str(size)}), _pieces(size, number)


def _form(connection: Connection, size: int, number: int) -> tuple[bytes, Iterator[bytes]]:
    headers = {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": str(len(FORM) + size + len(END)),
    }

    def body() -> Iterator[bytes]:
        yield FORM
        yield from _pieces(size, number)
        yield END

    return connection.head("POST", "/v1/files", headers), body()


# === Ranges ===


def _ranges(thaw: Connection, bare: Connection, path: str, size: int, *, turns: int) -> dict[str, Taken]:
    """The end of the file, as who goes on with a download asks for it."""
    last = f"bytes={size - PIECE_BYTES}-{size - 1}"
    asks = {
        "thaw": partial(thaw.ask, thaw.request("GET", path, Range=last), status=206),
        "bare": partial(bare.ask, bare.request("GET", "/download", Range=last), status=206),
    }
    for ask in asks.values():
        answer = ask()
        assert len(answer.body) == PIECE_BYTES, answer.head
        assert answer.body[4:8] == (size // PIECE_BYTES - 1).to_bytes(4)
    return in_turns(asks, turns=turns)
