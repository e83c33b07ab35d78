"""Whatever is sent, the answer is one that the OpenAPI document foresees, and never a 5xx."""

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

if TYPE_CHECKING:
    from tests.app.api.conftest import Thaw

pytestmark = pytest.mark.service

EXAMPLES = 6
CONFIG = schemathesis.Config.from_dict({})


@pytest.fixture
def real_ids(live: "Thaw") -> dict[str, str]:
    """Things that exist, so that not all is 404."""
    job = live.job()
    claim = live.claim(job)
    live.run_epochs(claim, 2, checkpoint=b"weights")
    live.succeed(claim)
    upload = live.post("/v1/uploads", {"bytes": 1000, "filename": "shoes.zip"})["id"]
    part = live.client.post(f"/v1/uploads/{upload}/parts", files={"data": ("part", b"one")}).json()["id"]
    return {
        "file_id": live.upload(),
        "upload_id": upload,
        "part_id": part,
        "model_id": live.ready_model(),
        "dataset_id": live.ready_dataset(),
        "job_id": job,
        "name": "model.keras",
    }


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("existing", [True, False], ids=["things that exist", "any ids"])
def test_answers_are_what_the_document_says(
    live: "Thaw", real_ids: dict[str, str], mode: GenerationMode, existing: bool
) -> None:
    schema = schemathesis.openapi.from_dict(live.app.openapi(), config=CONFIG)
    with requests.Session() as session:
        session.headers["Authorization"] = live.client.headers["Authorization"]
        session.trust_env = False
        for result in schema.get_all_operations():
            operation = result.ok()
            names = {parameter.name for parameter in operation.path_parameters}
            keep = existing and operation.method != "delete"
            if existing and not names:
                continue  # the other run has it
            if mode is GenerationMode.NEGATIVE and not has_input(operation):
                continue  # there is nothing that could be wrong
            ids = {name: real_ids[name] for name in names} if keep else None
            fuzz(operation, mode, ids, base_url=str(live.client.base_url), session=session)


def has_input(operation: Any) -> bool:
    places = (operation.path_parameters, operation.query, operation.headers, operation.body)
    return any(list(place) for place in places)


def fuzz(operation: Any, mode: GenerationMode, ids: dict[str, str] | None, **where: Any) -> None:
    """Send some generated requests for one operation, and judge the answers."""

    @hypothesis_settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode, path_parameters=ids))
    def send(case: Case) -> None:
        # Valid by its form is not yet right: most generated ids name nothing, which is 422.
        case.call_and_validate(excluded_checks=[positive_data_acceptance], **where)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the generator's own making
        send()
