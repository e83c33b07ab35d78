"""Multipart forms with one file in them, parsed while they arrive (RFC 7578).

Nothing is spooled: the file's bytes are handed on as they come, and the fields, which may stand before or
behind the file, are kept within tight limits.
"""

from typing import TYPE_CHECKING, Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from app.domain.errors import InvalidRequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # exists for type checkers only

FILE_FIELD: Final = "file"
MAX_FIELDS: Final = 16
MAX_FIELD_BYTES: Final = 8 * 1024
OVERHEAD_BYTES: Final = 1024**2
"""What a form may weigh beside its file."""


class FormReader:
    """Takes the body in pieces, gives back the file's bytes; afterwards `fields` and `filename` are known.

    Whatever is wrong with the form is an InvalidRequestError.
    """

    def __init__(self, content_type: str, *, file_field: str = FILE_FIELD) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """Set once the file's part has begun."""
        self._file_field = file_field
        self._parser = MultipartParser(_boundary(content_type), self._callbacks())
        self._header_name, self._header_value = bytearray(), bytearray()
        self._disposition = b""
        self._part: str | None = None
        self._field = bytearray()
        self._content: list[bytes] = []
        self._ended = False

    def feed(self, chunk: bytes) -> bytes:
        """Parse the next piece of the body; the file's bytes in it, often all of them."""
        self._content.clear()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            message = f"The multipart form cannot be read: {error}."
            raise InvalidRequestError(message) from error
        return b"".join(self._content)

    def finish(self) -> str:
        """Say that the body has ended; the file's name."""
        if not self._ended:
            message = (
                "The multipart form ends before its closing boundary; it seems to have been cut off. Send it again."
            )
            raise InvalidRequestError(message)
        if self.filename is None:
            name = self._file_field
            message = f"The multipart form has no part named '{name}'. Send the bytes as such a part."
            raise InvalidRequestError(message, param=f"/{name}")
        return self.filename

    # === What python-multipart calls ===

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._disposition, self._field = b"", bytearray()

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = _text(options.get(b"name", b""))
        if not name or name in self.fields or (name == self._file_field and self.filename is not None):
            message = f"Each part of the form must have a name of its own; received {name!r} without or twice."
            raise InvalidRequestError(message)
        if len(self.fields) >= MAX_FIELDS:
            message = f"The form has more than {MAX_FIELDS} fields."
            raise InvalidRequestError(message)
        self._part = name
        if name == self._file_field:
            self.filename = safe_filename(_text(options.get(b"filename", b"")))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == self._file_field:
            self._content.append(data[start:end])
            return
        self._field.extend(data[start:end])
        if len(self._field) > MAX_FIELD_BYTES:
            message = f"The form's field {self._part!r} is longer than {MAX_FIELD_BYTES} bytes."
            raise InvalidRequestError(message, param=f"/{self._part}")

    def _on_part_end(self) -> None:
        if self._part is not None and self._part != self._file_field:
            self.fields[self._part] = _text(bytes(self._field))
        self._part = None

    def _on_end(self) -> None:
        self._ended = True


def safe_filename(name: str) -> str:
    """The last part of a path, without control characters; browsers and scripts send whole paths at times."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(character for character in last if character.isprintable()).strip()
    printable = printable.lstrip(".")  # neither hidden nor a folder
    return printable[:255] or "upload"


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 70:  # RFC 2046, 5.1.1
        message = f"Expected a form with Content-Type: multipart/form-data and a boundary, received {content_type!r}."
        raise InvalidRequestError(message, param="Content-Type")
    return boundary


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").replace("\x00", "")
