"""Multipart forms, parsed while they arrive."""

import random

import pytest

from app.api.forms import FormReader, safe_filename
from app.domain.errors import InvalidRequestError

CONTENT_TYPE = 'multipart/form-data; boundary="frontier"'
CONTENT = bytes(range(256)) * 40 + b"\r\n--frontie\r\n--frontier-not\r\n"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return b"--frontier\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


END = b"--frontier--\r\n"
FILE, PURPOSE = part("file", CONTENT, "a.zip"), part("purpose", b"fine-tune")


def read(body: bytes, sizes: random.Random | None = None) -> tuple[FormReader, bytes]:
    """Feed `body` in one piece, or in random ones."""
    form, content, at = FormReader(CONTENT_TYPE), b"", 0
    while at < len(body):
        size = sizes.randint(1, 40) if sizes else len(body)
        content += form.feed(body[at : at + size])
        at += size
    return form, content


@pytest.mark.parametrize("body", [FILE + PURPOSE + END, PURPOSE + FILE + END], ids=["file first", "field first"])
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_file_and_fields_come_out_in_any_order_and_however_the_body_is_cut(body: bytes, seed: int | None) -> None:
    form, content = read(body, random.Random(seed) if seed else None)  # noqa: S311 (not for secrets)
    assert form.finish() == "a.zip"
    assert content == CONTENT
    assert form.fields == {"purpose": "fine-tune"}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (FILE, "cut off"),
        (FILE[:100], "cut off"),
        (PURPOSE + END, "no part named 'file'"),
        (FILE + FILE + END, "'file' without or twice"),
        (PURPOSE + PURPOSE + FILE + END, "'purpose' without or twice"),
        (part("", b"x") + FILE + END, "name of its own"),
        (part("purpose", b"x" * 9000) + FILE + END, "longer than"),
        (b"".join(part(f"field{number}", b"") for number in range(20)) + FILE + END, "more than 16 fields"),
        (b"this is no form at all", "cannot be read"),
    ],
)
def test_a_form_that_is_wrong_is_refused_with_the_reason(body: bytes, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        read(body)[0].finish()


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 71]
)
def test_a_body_that_is_no_form_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidRequestError, match="Expected a form"):
        FormReader(content_type)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("shoes.zip", "shoes.zip"),
        ("/etc/passwd", "passwd"),
        ("C:\\data\\shoes.zip", "shoes.zip"),
        ("../../x", "x"),
        ("sch\u00f6ne Schuhe.zip", "sch\u00f6ne Schuhe.zip"),
        ("a\r\nSet-Cookie: b", "aSet-Cookie: b"),
        ("", "upload"),
        ("..", "upload"),
        ("x" * 300, "x" * 255),
    ],
)
def test_of_a_filename_only_a_harmless_last_part_is_kept(sent: str, kept: str) -> None:
    assert safe_filename(sent) == kept
