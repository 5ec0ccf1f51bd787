"""Files from the network, streamed to disk, and texts of one folder out of a repository's archive.

Nothing is held in memory whole, and nothing of an archive decides where a file goes: of its members only regular files
right inside the wanted folder are read, under their bare names.
"""

from __future__ import annotations

import logging
import tarfile
import time
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError

from gateau.command import progress
from gateau.errors import DataError

logger = logging.getLogger(__name__)

TRIES = 3
PAUSE_SECONDS = 2.0
_TIMEOUT_SECONDS = 60
_CHUNK = 1 << 20
_BUSY = 429


class Unfetched(DataError):
    """An address that gives no file, after all tries."""


class _BrokeOff(OSError):
    """A server that sends less than it announced."""


def download(url: str, target: Path, name: str) -> None:
    """Stream ``url`` into the file ``target``, with a bar in MiB named ``name``; three tries where it may help.

    An answer such as 404 is final; 429, 5xx and broken connections are tried again. ``target`` may be left incomplete.

    Raises:
        Unfetched: with the address and the last reason.
    """
    for number in range(1, TRIES + 1):
        try:
            return _stream(url, target, name)
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            final = isinstance(error, HTTPError) and error.code < 500 and error.code != _BUSY
            if final or number == TRIES:
                raise Unfetched(f"{name}: {url} cannot be fetched ({reason})") from error
            logger.warning("%s: %s (%s); try %d of %d follows", name, url, reason, number + 1, TRIES)
            time.sleep(PAUSE_SECONDS)


def _stream(url: str, target: Path, name: str) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, target.open("wb") as output:
        announced = response.headers.get("Content-Length", "")
        total = int(announced) if announced.isdigit() else None
        chunks = iter(lambda: response.read(_CHUNK), b"")
        for chunk in progress(chunks, name, "MiB", None if total is None else -(-total // _CHUNK)):
            output.write(chunk)
        # http.client does not check this for reads of a given size
        if total is not None and output.tell() < total:
            raise _BrokeOff(f"the connection broke off after {output.tell()} of {total} bytes")


def extract_texts(archive: Path, folder: str, target: Path, most_bytes: int) -> None:
    """Write the ``*.txt`` right inside ``folder`` of a repository's tar.gz into the existing folder ``target``.

    The archive's members stand in one folder of any name, as code hosts pack them. Links, special files and whatever
    lies elsewhere are passed over.

    Raises:
        DataError: the archive cannot be read, or its texts have more than ``most_bytes`` bytes together.
    """
    n_bytes = 0
    try:
        with tarfile.open(archive, "r|gz") as members:
            for member, content in _texts(members, PurePosixPath(folder)):
                # the announced size bounds what reading the member gives
                n_bytes += member.size
                if n_bytes > most_bytes:
                    raise DataError(f"the texts of {folder} have more than the {most_bytes} bytes that are pinned")
                with (target / PurePosixPath(member.name).name).open("xb") as output:
                    while chunk := content.read(_CHUNK):
                        output.write(chunk)
    except (tarfile.TarError, EOFError, zlib.error, FileExistsError) as error:
        raise DataError(f"the archive cannot be read ({error})") from error


def _texts(members: tarfile.TarFile, folder: PurePosixPath) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    for member in members:
        path = PurePosixPath(member.name)
        inside = len(path.parts) > 1 and PurePosixPath(*path.parts[1:-1]) == folder
        if member.isreg() and inside and path.suffix == ".txt" and (content := members.extractfile(member)):
            yield member, content
