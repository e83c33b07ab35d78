"""What a check found."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    check: str
    verdict: Verdict
    """`problem`: jobs are lost, refused or stand still; `warning`: they may be some day, or slower."""
    found: str
    advice: str = ""
    """What to do; empty where nothing is."""


def ok(check: str, found: str) -> Finding:
    """As it should be."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, advice: str) -> Finding:
    """It works, but it may not some day."""
    return Finding(check, "warning", found, advice)


def problem(check: str, found: str, advice: str) -> Finding:
    """To be mended now."""
    return Finding(check, "problem", found, advice)
