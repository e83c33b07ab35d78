import re
import time

import pytest

from app.domain.errors import UserError
from app.domain.patterns import compiled

LONGEST = 60


@pytest.mark.parametrize(
    "pattern",
    [
        "^block_1[2-6]_",
        r"block_\d+_(expand|project)_BN$",
        "conv.*bn",
        "^conv.*bn.*relu",
        "^(conv|bn)_?[0-9]+/.*kernel",
        "(?i)dense",
        "(?=.*bn)^a",
        "a{5}b{2,4}",
    ],
)
def test_patterns_that_people_write_are_compiled(pattern: str) -> None:
    assert compiled(pattern, longest=LONGEST, param="unfreeze.match") == re.compile(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a|a)*b",
        "(a|aa)+$",
        "(.*)*x",
        "((a*){1,30})*b",
        "(?:a{1,30}){1,30}b",
        "a?" * 60 + "a" * 60,
        "(a|a)" * 40 + "b",
        ".*.*.*.*.*x",
        "(?=(a+)+b)",
        "(?>(a+)+b)",
        "(x)?(?(1)(a+)+b|(a+)+c)",
    ],
)
def test_patterns_that_could_run_for_ages_are_refused_at_once(pattern: str) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="may take very long") as caught:
        compiled(pattern, longest=LONGEST, param="unfreeze.match")
    assert time.monotonic() - started < 1
    assert caught.value.work_code == "invalid_pattern"
    assert caught.value.param == "unfreeze.match"


@pytest.mark.parametrize("pattern", ["(", "[a", "a**", "(?P<x", "a{99999999999999}"])
def test_what_is_no_pattern_is_refused_with_the_reason(pattern: str) -> None:
    with pytest.raises(UserError, match="must be a regular expression"):
        compiled(pattern, longest=LONGEST, param="unfreeze.match")


def test_the_slowest_patterns_that_pass_are_fast_enough() -> None:
    pattern = compiled("^.*.*.*x", longest=LONGEST, param="unfreeze.match")
    started = time.monotonic()
    assert not pattern.search("a" * LONGEST)
    assert time.monotonic() - started < 1
