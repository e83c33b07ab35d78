# syntax=docker/dockerfile:1
# Targets: api (no TensorFlow inside), worker (TensorFlow on CPU), worker-gpu (TensorFlow with CUDA wheels;
# the host needs the NVIDIA driver and its container toolkit).

FROM python:3.12-slim AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY app app
COPY worker worker
COPY thaw thaw

FROM build AS build-api
RUN uv sync --locked --no-dev --no-editable --extra api

FROM build AS build-worker
RUN uv sync --locked --no-dev --no-editable --extra worker --extra export --extra hub

FROM build AS build-worker-gpu
RUN uv sync --locked --no-dev --no-editable --extra gpu --extra export --extra hub

FROM python:3.12-slim AS runtime
# The data folder belongs to the user that runs the service, and so does a volume mounted on it.
RUN useradd --system --uid 10001 --create-home thaw && install -d -o thaw -g thaw -m 700 /data
ENV PATH=/src/.venv/bin:$PATH PYTHONUNBUFFERED=1 THAW_DATA_DIR=/data
USER thaw
WORKDIR /data
VOLUME /data

FROM runtime AS api
COPY --from=build-api /src/.venv /src/.venv
# Inside a container the port is reached through the container's own address.
ENV THAW_HOST=0.0.0.0 THAW_PORT=8420
EXPOSE 8420
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8420/healthz', timeout=4)"]
CMD ["python", "-m", "app.main"]

FROM runtime AS worker
COPY --from=build-worker /src/.venv /src/.venv
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker", "--queues", "cpu"]

FROM runtime AS worker-gpu
COPY --from=build-worker-gpu /src/.venv /src/.venv
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker", "--queues", "gpu"]
