"""Signs that a reader could not see otherwise."""

_MARKS = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}


def printable(text: str) -> str:
    """Make control characters visible, so that no dataset sends commands to a terminal."""
    return "".join(s if s.isprintable() else s.encode("unicode_escape").decode() for s in text)


def visible(text: str) -> str:
    """Give spaces and line breaks a sign that can be seen, and control characters their code."""
    return printable("".join(_MARKS.get(sign, sign) for sign in text))
