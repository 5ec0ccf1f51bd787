r"""Find the first or last line end or blank line of a text, whether its lines end with ``\n`` or with ``\r\n``."""

from __future__ import annotations

_FORMS = {"blank_line": ("\n\n", "\n\r\n"), "line": ("\n",)}  # a carriage return before them belongs to them


def parted_at_first(text: str, kind: str = "blank_line") -> tuple[str, str, str]:
    """Return what :meth:`str.partition` returns at the first boundary of a kind, ``blank_line`` or ``line``."""
    found = [(place, form) for form in _FORMS[kind] if (place := text.find(form)) >= 0]
    return _parted(text, *min(found)) if found else (text, "", "")


def parted_at_last(text: str, kind: str = "blank_line") -> tuple[str, str, str]:
    """Return what :meth:`str.rpartition` returns at the last boundary of a kind, ``blank_line`` or ``line``."""
    found = [(place, form) for form in _FORMS[kind] if (place := text.rfind(form)) >= 0]
    return _parted(text, *max(found)) if found else ("", "", text)


def _parted(text: str, place: int, form: str) -> tuple[str, str, str]:
    start, end = place - text.endswith("\r", 0, place), place + len(form)
    return text[:start], text[start:end], text[end:]
