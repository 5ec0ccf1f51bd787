"""The fields of a raw row, the names that are known for them, and the user's own names for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateau.data.messages import SYSTEM_FIELDS, TEXT_FIELDS, InvalidRow
from gateau.errors import DataError

_LISTS = {"messages": ("messages",), "conversations": ("conversations",)}
_KNOWN = {**_LISTS, **TEXT_FIELDS, **{name: (name,) for name in ("id", "dataset", "length", "history")}}
_KNOWN["system"] = SYSTEM_FIELDS
_NEEDED = {*_LISTS, "instruction", "response"}
_SHOWN = 30  # columns that an error lists


@dataclass(frozen=True)
class Columns:
    """The user's own names of fields, as in ``data.columns``.

    Attributes:
        own: name by field; a field without one is found under its known names.
        setting: the configuration key, for messages.
    """

    own: Mapping[str, str] = field(default_factory=dict)
    setting: str = "data.columns"

    @property
    def number(self) -> str | None:
        """Name of the field whose texts are read as numbers where all is text, as in CSV."""
        return self.own.get("length", "length")

    def fields_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a row that are not null, under the fields' names instead of the user's own.

        A field with an own name is not looked for under any other name. If it holds a text, ``messages`` and
        ``conversations`` are not read either, unless they have own names, too.

        Raises:
            InvalidRow: the row has no value under an own name that it needs.
        """
        for name, own in self.own.items():
            if name in _NEEDED and row.get(own) is None:
                raise InvalidRow("missing_fields", f"the row has no {own}, which is the {name} by {self.setting}")
        if self.own:
            hidden = self._hidden()
            named = {name: row.get(own) for name, own in self.own.items()}
            row = {**{name: value for name, value in row.items() if name not in hidden}, **named}
        return {name: value for name, value in row.items() if value is not None}

    def misnamed(self, keys: Collection[str]) -> str | None:
        """Return which own name is not among the keys of the rows, and what to do. None if all are, or without rows."""
        for name, own in self.own.items() if keys else ():
            if own not in keys:
                return (
                    f"no row has {own}, which is the {name} by {self.setting}; write one of the names that rows have: "
                    f"{_listed(keys)}"
                )
        return None

    def of_table(self, path: str, types: Mapping[str, str]) -> list[str]:
        """Return the columns of a table that hold fields.

        Args:
            path: the file, for error messages.
            types: type by column.

        Raises:
            DataError: the table lacks a column with an own name, or its columns make no row.
        """
        listed = _listed([f"{name}: {kind}" for name, kind in types.items()])
        for name, own in self.own.items():
            if own not in types:
                raise DataError(f"{path}: has no column {own}, which is the {name} by {self.setting}; it has {listed}")
        wanted = {name for names in _KNOWN.values() for name in names} - self._hidden() | set(self.own.values())
        found = [name for name in types if name in wanted]
        fields = self.fields_of(dict.fromkeys(found, True))
        has_texts = "input" in fields or any(name in fields for name in TEXT_FIELDS["instruction"])
        has_response = any(name in fields for name in TEXT_FIELDS["response"])
        if not fields.keys() & _LISTS.keys() and not (has_texts and has_response):
            raise DataError(
                f"{path}: its columns make no row: {listed}; say which column holds what, for example "
                f"{self.setting}: {_suggested(types)} (docs/data.md lists the names that are known)"
            )
        return found

    def _hidden(self) -> set[str]:
        """Return the known names that the user's own names replace, and the columns that hold the user's own texts."""
        texts = self.own.keys() & (_LISTS.keys() | TEXT_FIELDS.keys())
        fields = [*self.own, *(_LISTS if texts else ())]
        return {name for field_name in fields for name in _KNOWN[field_name]} | {self.own[name] for name in texts}


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(list(names)[:_SHOWN]) + more


def _suggested(types: Mapping[str, str]) -> str:
    """Return a mapping to write, with columns of fitting types in the order of the table."""
    nested = [name for name, kind in types.items() if kind.startswith(("list", "large_list", "struct"))]
    if nested:
        return f"{{messages: {nested[0]}}}"
    texts = [name for name, kind in types.items() if "string" in kind][:3]
    fields = ("context", "instruction", "response")[-max(len(texts), 2) :]
    return f"{{{', '.join(f'{name}: {own}' for name, own in zip(fields, [*texts, '…', '…'], strict=False))}}}"
