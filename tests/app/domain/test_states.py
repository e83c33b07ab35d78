"""The table of a job's moves, and the page that is made of it."""

import re
from pathlib import Path

from app.domain import lifelines
from app.domain.states import FIRST, MOVES, STATUSES, TERMINAL, TRANSITIONS, UNFINISHED, allowed_actions

PAGE = Path(__file__).resolve().parents[3] / "docs" / "jobs.md"
NEW_JOBS = {"retry", "fork"}
"""Actions that leave the job as it is."""


def test_every_status_has_a_row_and_moves_only_to_statuses() -> None:
    assert set(TRANSITIONS) == set(STATUSES)
    assert set().union(*TRANSITIONS.values()) <= set(STATUSES)


def test_a_terminal_status_is_never_left_and_allows_nothing_but_new_jobs() -> None:
    for status in TERMINAL:
        assert not TRANSITIONS[status]
        assert set(allowed_actions(status)) <= NEW_JOBS


def test_only_terminal_statuses_have_no_way_out() -> None:
    assert {status for status in STATUSES if not TRANSITIONS[status]} == TERMINAL


def test_what_may_be_asked_of_a_job_leads_somewhere() -> None:
    leads_to = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}
    for status in STATUSES:
        assert {leads_to[action] for action in set(allowed_actions(status)) - NEW_JOBS} <= TRANSITIONS[status]


def test_every_job_can_reach_an_end() -> None:
    reachable = {"validating_files"}
    while new := set().union(*(TRANSITIONS[status] for status in reachable)) - reachable:
        reachable |= new
    assert reachable >= TERMINAL


def test_every_move_is_told_once_with_who_and_when() -> None:
    told = [(move.old, move.new, move.who, move.when) for move in MOVES]
    assert len(set(told)) == len(told)
    assert all(move.who and move.when and move.guard for move in MOVES)
    assert {move.old for move in MOVES} == set(UNFINISHED)


def test_the_page_shows_the_moves_as_they_are_in_the_code() -> None:
    page = PAGE.read_text()
    made = page[page.index(lifelines.BEGIN) : page.index(lifelines.END) + len(lifelines.END)]
    assert made == lifelines.section(), "run `python -m app.domain.lifelines` and put it into docs/jobs.md"


def test_the_diagram_has_an_arrow_for_every_move_and_no_other() -> None:
    arrows = set(re.findall(r"^    (\S+) --> (\S+)$", lifelines.section(), re.MULTILINE))
    ends = {("[*]", status) for status in FIRST} | {(status, "[*]") for status in TERMINAL}
    assert arrows == {(old, new) for old in STATUSES for new in TRANSITIONS[old]} | ends
