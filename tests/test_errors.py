"""What is said of an exception that a stranger made: something short and printable, whatever it is."""

from __future__ import annotations

import pytest

from robustbench_gan.base.errors import LONGEST, describe


class Mute(Exception):
    def __str__(self):
        raise SystemExit(0)


class Nameless(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")


class Odd(Exception, metaclass=Nameless):
    pass


class Text(str):
    def __len__(self):
        return 0

    def __getitem__(self, key):
        raise RuntimeError

    def encode(self, *how):
        raise RuntimeError


class Disguised(Exception):
    __class__ = property(lambda self: 1 / 0)

    def __str__(self):
        return Text("as any other")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such thing"), "ValueError: no such thing"),
        (MemoryError(), "MemoryError"),
        (SystemExit(0), "SystemExit: 0"),
        (KeyError("a\x1b[2Jb"), "KeyError: 'a\\x1b[2Jb'"),
        (OSError("two\nlines\x07\x00"), "OSError: two\nlines\\x07\\x00"),
        (RuntimeError("half \udcff"), "RuntimeError: half \\udcff"),
        (Mute(), "Mute: (its text cannot be made: __str__ raises)"),
        (Odd("strange"), "Odd: strange"),
        (Disguised(), "Disguised: as any other"),
        (RuntimeError("A" * 3_000_000), f"RuntimeError: {'A' * LONGEST} ... ({3_000_000 - LONGEST} more characters)"),
    ],
    ids=lambda value: value[:9] if type(value) is str else "",
)  # fmt: skip
def test_any_exception_is_described_in_printable_words(error, text):
    assert describe(error) == text
