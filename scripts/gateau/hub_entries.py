"""Entries of ``data.long`` and ``data.short`` that name a data set on the Hugging Face hub.

Rule ``hub_data`` fetches the files of an entry into ``<results>/hub_data/<name>`` and lists them in
``<name>.hub.json`` beside that folder. The list is what other rules read. It holds the commit, and path, size and
SHA-256 of each file, so that contents and commit decide what runs again, not places. This module imports neither numpy
nor the client of the hub, because planning reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateau.digests import settings_digest
from gateau.errors import DataError
from gateau.files import read_json

FOLDER, ENDING = "hub_data", ".hub.json"


@dataclass(frozen=True)
class HubEntry:
    """A data set on the hub, and which of its files to read.

    Attributes:
        hub: ``OWNER/NAME``.
        revision: commit, branch or tag; None stands for the default branch.
        files: patterns of paths in the repository; none stand for all data files.
        split: name of a split; None takes the files of all splits.
    """

    hub: str
    revision: str | None = None
    files: tuple[str, ...] = ()
    split: str | None = None

    @classmethod
    def from_config(cls, value: Mapping[str, Any]) -> HubEntry:
        """Return the entry that a mapping of the configuration describes."""
        files = value.get("files") or ()
        patterns = (files,) if isinstance(files, str) else tuple(files)
        return cls(value["hub"], value.get("revision"), patterns, value.get("split"))

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which always stands for the same files."""
        return re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None

    def listing(self, results: str, place: Callable[[str], str] = str) -> str:
        """Return the path of the list of its files below a folder of results.

        The name has the revision, ``OWNER--NAME@REVISION.hub.json``, so that another revision is another file. A
        commit that was fetched under the name of a branch or tag keeps that list: writing down the commit that a run
        has found changes nothing.

        Args:
            results: the folder of results.
            place: returns the place of a path, which has the prefix of a module in front.
        """
        choice = {"files": sorted(self.files), "split": self.split}
        digest = f"-{settings_digest(choice, 8)}" if self.files or self.split else ""
        folder, stem = f"{results.rstrip('/')}/{FOLDER}", f"{self.hub.replace('/', '--')}{digest}"
        own = f"{stem}@{re.sub(r'[^A-Za-z0-9_.-]', '-', self.revision)}" if self.revision else stem
        others = (name_of(str(path)) for path in sorted(Path(place(folder)).glob(f"{stem}*{ENDING}")))
        known = [name for name in others if name == stem or name.startswith(f"{stem}@")]
        if self.is_pinned and own not in known:
            own = next((name for name in known if _commit(f"{place(folder)}/{name}{ENDING}") == self.revision), own)
        return f"{folder}/{own}{ENDING}"


def _commit(listing: str) -> str | None:
    try:
        return str(read_json(listing)["commit"])
    except (DataError, LookupError, TypeError):
        return None


def name_of(listing: str) -> str:
    """Return the name of the folder that a list describes."""
    return Path(listing).name.removesuffix(ENDING)


def is_listing(path: str) -> bool:
    """Return whether a path is that of a list of fetched files."""
    return path.endswith(ENDING) and Path(path).parent.name == FOLDER


def is_unfetched(path: str) -> bool:
    """Return whether a path is that of a list of fetched files that does not exist yet."""
    return is_listing(path) and not Path(path).is_file()


def not_fetched(listing: str) -> str:
    """Return what to say about a list that does not exist yet."""
    return (
        f"the hub's data set {name_of(listing)} is not fetched yet; a run does so, or fetch it alone: "
        f"snakemake {listing} --workflow-profile local --configfile <yours>"
    )


def listed_files(listing: str) -> list[tuple[str, str]]:
    """Return path and name (``OWNER/NAME/<path in the repository>``) of each file of a list, in its order.

    Raises:
        DataError: there is no such list, or a file is missing or has another size.
    """
    if is_unfetched(listing):
        raise DataError(not_fetched(listing))
    content, folder = read_json(listing), listing.removesuffix(ENDING)
    for file in content["files"]:
        place = Path(folder, file["path"])
        if not place.is_file() or place.stat().st_size != file["n_bytes"]:
            raise DataError(f"{place}: missing or changed since it was fetched; delete {listing} and run again")
    return [(f"{folder}/{file['path']}", f"{content['hub']}/{file['path']}") for file in content["files"]]
