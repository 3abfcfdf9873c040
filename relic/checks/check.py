"""One line of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "broken", "absent"]
SIGNS: dict[Status, str] = {"ok": "✓", "broken": "✗", "absent": "–"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor."""

    name: str
    status: Status
    """`ok`; `broken`: nothing runs before it is mended; `absent`: something that one can do without."""
    detail: str
    mend: str | None = None
    """The command that mends it."""
