"""Children get what programs need, and no secret."""

import os

import pytest

from worker import environment


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "PYTHONPATH",
        "KERAS_HOME",
        "CUDA_VISIBLE_DEVICES",
        "HF_ENDPOINT",
        "KAGGLEHUB_CACHE",
        "PGSERVICEFILE",
        "PGSYSCONFDIR",
    ],
)
def test_what_programs_need_stays(name: str) -> None:
    assert environment.is_kept(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "THAW_API_KEY",
            "THAW_DATABASE_URL",
            "THAW_REDIS_URL",
            "THAW_DATABASE_URL_FILE",
            "DATABASE_URL",
            "PGPASSWORD",
            "PGSERVICE",
        ),
        *("REDIS_URL", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HTTPS_PROXY", "GITHUB_TOKEN"),
        *("SSH_AUTH_SOCK", "MY_OWN_SECRET"),
    ],
)
def test_everything_else_goes(name: str) -> None:
    assert not environment.is_kept(name)


def test_scrubbing_empties_this_process() -> None:
    saved = dict(os.environ)
    os.environ["THAW_API_KEY"] = "secret"
    try:
        assert "THAW_API_KEY" in environment.scrub()
        assert all(environment.is_kept(name) for name in os.environ)
    finally:
        os.environ.update(saved)
        os.environ.pop("THAW_API_KEY", None)
