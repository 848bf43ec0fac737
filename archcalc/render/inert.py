"""Lines that a CI runner would obey, made mere text.

GitHub's runner takes commands out of all that a step prints: `::name::` where only blanks stand before it, and
`##[name]` anywhere in a line (actions/runner src/Runner.Common/ActionCommand.cs, TryParseV2 and TryParse). What people
are told may quote a title, a path or a key that somebody chose for that.
"""

from __future__ import annotations

import re

_START = re.compile(r"^((?:\x1b\[[0-9;]*m|[^!-~\n])*):(?=:)", re.MULTILINE)
"""A colon that begins a command. No visible ASCII character stands before it: the runner skips blanks, and its
comparison may skip more."""


def inert(text: str) -> str:
    r"""The text with the first character of each such command as an escape, as control characters are shown: `\x3a:`
    and `\x23#[`. Commands of our own, the annotations of `--format github`, don't come through here."""
    if "::" in text:
        text = _START.sub(r"\1\\x3a", text)
    return text.replace("##[", "\\x23#[")
