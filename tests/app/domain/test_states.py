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


def test_only_terminal_statuses_have_no_way_out() -> None:
    assert {status for status in STATUSES if not TRANSITIONS[status]} == TERMINAL


def test_what_may_be_asked_of_a_job_leads_somewhere() -> None:
    leads_to = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}
    for status in STATUSES:
        assert {leads_to[action] for action in allowed_actions(status)} <= TRANSITIONS[status]


def test_every_job_can_reach_an_end() -> None:
    reachable = {"validating_files"}
    while new := set().union(*(TRANSITIONS[status] for status in reachable)) - reachable:
        reachable |= new
    assert reachable >= TERMINAL
