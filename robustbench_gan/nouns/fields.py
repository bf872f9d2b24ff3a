"""What the fields of a record are: validated and frozen, with bits packed and facts that JSON can hold. No torch."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

LEGIBLE: Final = 256
"""Bits that a file holds one character each: of a small run one can see which images fell."""
PACKED: Final = "^[1-9][0-9]*:[0-9a-f]+$"
Fact = Annotated[
    float | int | str,
    BeforeValidator(lambda value: float(value) if value in ("Infinity", "-Infinity", "NaN") else value),
]


def packed(bits: str) -> str:
    """Bits as files hold them: as they are up to LEGIBLE, else how many and a hex digit for four of them.

    The first bit is the highest of its digit, and the last digit is padded with zeros: 300 ones are `"300:fff..."`.
    """
    if len(bits) <= LEGIBLE:
        return bits
    padded = bits.ljust(-(-len(bits) // 4) * 4, "0")
    return f"{len(bits)}:" + "".join(f"{int(padded[at : at + 4], 2):x}" for at in range(0, len(padded), 4))


def unpacked(text: Any) -> Any:
    """The reverse of `packed`; all else comes back as it is. Raises ValueError where count and digits disagree."""
    if not isinstance(text, str) or not re.fullmatch(PACKED, text):
        return text
    count, _, digits = text.partition(":")
    if int(count[:10]) <= LEGIBLE:
        raise ValueError(f"{count} bits, which are written one character each up to {LEGIBLE}")
    if len(count) > 9 or len(digits) != -(-int(count) // 4):
        raise ValueError(f"{len(digits)} hex digits for {count[:20]} bits")
    bits = "".join(f"{int(digit, 16):04b}" for digit in digits)
    if "1" in bits[int(count) :]:
        raise ValueError(f"a bit is set behind the last of {count}")
    return bits[: int(count)]


Bits = Annotated[
    str,  # one character a sample in memory, packed in a file where they are many
    Field(pattern="^[01]*$"),
    BeforeValidator(unpacked),
    PlainSerializer(packed, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^[01]{{0,{LEGIBLE}}}$|{PACKED}"}),
]


class Validated(BaseModel):
    """A strict and frozen model: what a record is made of."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_inf_nan="strings",
        json_schema_serialization_defaults_required=True,
    )

    def _plain(self) -> Any:
        """As JSON's own types: through text, since `model_dump` alone leaves inf, which is no JSON."""
        return json.loads(self.model_dump_json())
