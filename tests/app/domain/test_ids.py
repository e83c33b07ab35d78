"""Ids say what they are and sort by time."""

import time

import pytest

from app.domain.ids import event_id, event_number, new_id


def test_ids_made_later_sort_later() -> None:
    first = new_id("ftjob")
    deadline = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == deadline:
        pass
    assert first < new_id("ftjob")


def test_ids_differ_within_a_millisecond() -> None:
    assert len({new_id("file") for _ in range(10_000)}) == 10_000


def test_an_id_is_its_prefix_and_26_characters_of_base32() -> None:
    prefix, _, rest = new_id("ds").partition("-")
    assert prefix == "ds"
    assert len(rest) == 26
    assert set(rest) <= set("0123456789abcdefghjkmnpqrstvwxyz")


def test_an_event_id_gives_its_number_back() -> None:
    assert event_number(event_id(new_id("ftjob"), 42)) == 42


@pytest.mark.parametrize("text", ["", "ftevent-", "ftevent-x-y", "ftjob-00000001", "12"])
def test_what_is_no_event_id_has_no_number(text: str) -> None:
    assert event_number(text) is None
