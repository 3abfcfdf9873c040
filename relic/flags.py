"""Flags of a command, parsed by tyro, with mistakes in one line."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any

OK, FAILED, WRONG_USE = 0, 1, 2


def run(function: Callable[..., int | None], arguments: list[str], *, prog: str) -> int:
    """Call a command with its flags; errors become one line, and the exit code is returned.

    A function with the attribute `parses_arguments` gets the flags as they are.
    """
    try:
        if getattr(function, "parses_arguments", False):
            return function(arguments) or OK
        # tyro only binds the flags; the command runs outside of it, so that its own errors and stderr stay untouched.
        bind = functools.wraps(function)(lambda *given, **named: functools.partial(function, *given, **named))
        status, bound = parse(bind, arguments, prog=prog)
        return status if bound is None else bound() or OK
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return OK
    except (ValueError, OSError) as error:
        if os.environ.get("RELIC_DEBUG"):
            raise
        print(f"{prog}: error: {one_line(str(error))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130


def parse(target: Callable[..., Any], arguments: list[str], *, prog: str, default: Any = None) -> tuple[int, Any]:
    """Let tyro call `target` with the parsed flags.

    Returns:
        (exit code, what the target returned). After --help or a wrong flag or value (one line on stderr) the second is
        None.
    """
    import tyro

    extra = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return OK, tyro.cli(target, args=arguments, prog=prog, **extra)
    except SystemExit as stop:
        if not stop.code:
            return OK, None
        print(f"{prog}: error: {_parse_error(complaint.getvalue())}", file=sys.stderr)
        return WRONG_USE, None


def _parse_error(text: str) -> str:
    """Shorten tyro's boxes to what is wrong and the nearest valid flag."""
    line = one_line(text)
    unknown = re.search(r"Unrecognized options: (--[^\s,]+)", line)
    if unknown:
        meant = re.search(r"Perhaps you meant: (--[^\s,]+)", line)
        return f"unknown option {unknown[1]}" + (f": did you mean {meant[1]}?" if meant else "; see --help")
    choice = re.search(r"invalid choice '([^']*)' for argument '([^']*)'\. Expected one of \(([^)]*)\)", line)
    if choice:
        given, flag, valid = choice[1], choice[2], re.findall(r"'([^']*)'", choice[3])
        nearest = difflib.get_close_matches(given, valid, 1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"one of {', '.join(valid)}"
        return f"{flag} has no choice {given!r}: {hint}"
    return re.split(r" Argument helptext:| For full helptext", line)[0]


def one_line(text: str) -> str:
    """Return text without boxes, colours and line breaks."""
    without_boxes = re.sub(r"\x1b\[[0-9;]*m|[─-╿]+", " ", text)
    return " ".join(without_boxes.split())
