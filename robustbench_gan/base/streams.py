"""Standard output and error that may be closed at any time, and can be written anything: the work goes on. No torch."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustbench_gan.base.errors import UsageError

GONE = (
    errno.EPIPE,
    errno.EBADF,
    errno.EIO,
    errno.ESHUTDOWN,
    errno.ECONNRESET,
)  # whoever read it is not there any more


class Forgiving:
    """A text stream that falls silent where its reader is gone, and escapes what its encoding does not have."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write it, as far as anybody listens."""
        with self._reader_may_be_gone():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush it, as far as anybody listens."""
        with self._reader_may_be_gone():
            self._stream.flush()

    @contextmanager
    def _reader_may_be_gone(self) -> Iterator[None]:
        """Raises UsageError where writing fails for another reason, such as a full disk."""
        try:
            yield
        except OSError as error:
            _silence(self._stream)
            if error.errno not in GONE:
                raise UsageError(f"cannot write {self._stream.name}: {error.strerror or error}.") from error


def _silence(stream: Any) -> None:
    """Send what is still in the stream's buffer, and what comes, nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != stream.fileno():
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        stream.flush()


@contextmanager
def forgiving() -> Iterator[None]:
    """Make both streams so inside the block. One that the process was started without stays nobody's."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest free number is the one that is given out
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        streams = [Forgiving(nowhere if stream is None else stream) for stream in before]
        sys.stdout, sys.stderr = streams  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for stream in streams:
                stream.flush()
