"""Models in repositories of the Hugging Face Hub.

    hf://owner/name[@revision][/path/to/model.keras]

Without a file it is the repository's `model.keras`, or its only model file; without a revision, `main`. Whoever
registers such a name notes the commit that the revision was then: `SourceInfo.origin`.
"""

import re

from app.domain.base import Value
from app.domain.errors import UserError

PREFIX = "hf://"
ENDINGS = (".keras", ".h5", ".hdf5")
MAIN = "main"

_NAME = re.compile(
    r"hf://(?P<owner>[A-Za-z0-9][\w.-]{0,95})/(?P<name>[A-Za-z0-9][\w.-]{0,95})"
    r"(?:@(?P<revision>[A-Za-z0-9][\w.-]{0,95}))?(?:/(?P<file>[\w][\w.+ -]*(?:/[\w][\w.+ -]*)*))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubName(Value):
    """A file in a repository, as it is named; `str()` gives the shortest spelling."""

    repository: str
    """`owner/name`."""
    revision: str = MAIN
    """A branch, a tag or a commit."""
    file: str | None = None
    """The path in the repository; `None`: to be found."""

    def __str__(self) -> str:
        revision = "" if self.revision == MAIN else f"@{self.revision}"
        return f"{PREFIX}{self.repository}{revision}" + (f"/{self.file}" if self.file else "")

    @property
    def is_pinned(self) -> bool:
        """Whether it names a commit, so that it means the same for ever."""
        return _COMMIT.fullmatch(self.revision) is not None


def is_name(text: str) -> bool:
    """Whether a text means a model of the Hugging Face Hub, well spelled or not."""
    return text.startswith(PREFIX)


def parse(text: str) -> HubName:
    """Take a name apart. Raises `UserError` that says how names are spelled, or why a file is none for Thaw."""
    found = _NAME.fullmatch(text)
    if found is None:
        message = f"A model of the hub is named {PREFIX}owner/name[@revision][/file.keras]; received '{text[:200]}'."
        raise UserError(message, code="wrong_name", param="model")
    name = HubName(
        repository=f"{found['owner']}/{found['name']}", revision=found["revision"] or MAIN, file=found["file"]
    )
    if name.file and not name.file.lower().endswith(ENDINGS):
        message = f"'{name.file}' is no model file that Thaw opens: expected one that ends in {', '.join(ENDINGS)}."
        raise UserError(message, code="unsupported_format", param="model")
    return name
