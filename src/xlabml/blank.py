"""Texts that say nothing: what "an empty text" means in every format, file and request."""


def is_blank(text: str) -> bool:
    """Whether a text has no character but blanks (spaces, line breaks, all that Unicode counts among them)."""
    return not text or text.isspace()
