"""The table of a job's moves."""

from typing import get_args

from app.domain.states import TERMINAL, TRANSITIONS, JobStatus, allowed_actions

STATUSES = get_args(JobStatus)


def test_every_status_has_a_row_and_moves_only_to_statuses() -> None:
    assert set(TRANSITIONS) == set(STATUSES)
    assert set().union(*TRANSITIONS.values()) <= set(STATUSES)


def test_a_terminal_status_is_never_left_and_allows_nothing() -> None:
    for status in TERMINAL:
        assert not TRANSITIONS[status]
        assert allowed_actions(status) == []


def test_only_terminal_statuses_and_pausing_to_come_have_no_way_out() -> None:
    assert {status for status in STATUSES if not TRANSITIONS[status]} == TERMINAL | {"paused"}


def test_every_job_can_reach_an_end() -> None:
    reachable = {"validating_files"}
    while new := set().union(*(TRANSITIONS[status] for status in reachable)) - reachable:
        reachable |= new
    assert reachable >= TERMINAL
