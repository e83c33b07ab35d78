"""What is written to JSON columns."""

import pytest
from pydantic import ValidationError

from app.domain.spec import ResolvedSpec, Spec, resolve
from app.storage.rows import spec_column


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"seed": -1}])
def test_a_specification_that_could_not_be_read_again_is_not_written(change: dict[str, int]) -> None:
    spec = resolve(Spec(), seed=1)
    assert ResolvedSpec.model_validate(spec_column(spec)) == spec
    with pytest.raises(ValidationError, match=next(iter(change))):
        spec_column(spec.model_copy(update=change))
