"""What a FastAPI application costs that does nothing: the same bytes, without Thaw.

    python bare.py FOLDER

    PUT  /payloads/{name}     keep an answer
    GET  /payloads/{name}     give it
    POST /payloads/{name}     read a JSON object, give it with 201
    POST /upload              write the body to a file while it arrives; `?synced=true`: and to the disk
    GET  /download            the file

One process of uvicorn, set up like Thaw's.
"""

import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse

from app.main import listen

app = FastAPI()
payloads: dict[str, bytes] = {}
JSON = "application/json"


@app.put("/payloads/{name}")
async def keep(name: str, request: Request) -> None:
    payloads[name] = await request.body()


@app.get("/payloads/{name}")
def give(name: str) -> Response:
    return Response(payloads[name], media_type=JSON)


@app.post("/payloads/{name}")
def take_and_give(name: str, body: dict[str, Any]) -> Response:
    assert body
    return Response(payloads[name], status_code=201, media_type=JSON)


@app.post("/upload", status_code=201)
async def upload(request: Request, *, synced: bool = False) -> dict[str, int]:
    with file().open("wb") as target:
        async for chunk in request.stream():
            target.write(chunk)
        if synced:
            target.flush()
            os.fsync(target.fileno())
    return {"bytes": file().stat().st_size}


@app.get("/download")
def download() -> FileResponse:
    return FileResponse(file())


def file() -> Path:
    return Path(sys.argv[1]) / "upload.bin"


def main() -> None:
    """Serve until SIGTERM."""
    with listen("127.0.0.1", 0) as listener:
        print(f"Bare FastAPI on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, ws="none")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
