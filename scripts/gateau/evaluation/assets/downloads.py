"""Downloads that are streamed to disk, and the texts of one folder out of a repository's archive.

No file is held in memory as a whole. An archive cannot decide where its files are written: only regular files directly
inside the wanted folder are read, and they are written under their bare names.
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
_CHUNK = 1 << 20  # bytes
_BUSY = 429  # HTTP status "too many requests"


class Unfetched(DataError):
    """A file could not be downloaded, after all tries."""


class _BrokeOff(OSError):
    """The server sent fewer bytes than it announced."""


def download(url: str, target: Path, name: str) -> None:
    """Stream ``url`` into the file ``target``, and show the progress in MiB under ``name``.

    Broken connections and the HTTP statuses 429 and 5xx are tried again, three tries in all. Other statuses, such as
    404, are final. On failure, ``target`` may be left incomplete.

    Raises:
        Unfetched: the file cannot be downloaded. The message has the address and the last reason.
    """
    for number in range(1, TRIES + 1):
        try:
            return _stream(url, target, name)
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            final = isinstance(error, HTTPError) and error.code < 500 and error.code != _BUSY
            if final or number == TRIES:
                raise Unfetched(f"{name}: {url} cannot be fetched ({reason})") from error
            logger.warning("%s: %s failed (%s); starting try %d of %d", name, url, reason, number + 1, TRIES)
            time.sleep(PAUSE_SECONDS)


def _stream(url: str, target: Path, name: str) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, target.open("wb") as output:
        announced = response.headers.get("Content-Length", "")
        total = int(announced) if announced.isdigit() else None
        chunks = iter(lambda: response.read(_CHUNK), b"")
        for chunk in progress(chunks, name, "MiB", None if total is None else -(-total // _CHUNK)):
            output.write(chunk)
        # http.client does not check the length when it reads in chunks
        if total is not None and output.tell() < total:
            raise _BrokeOff(f"the connection broke off after {output.tell()} of {total} bytes")


def extract_texts(archive: Path, folder: str, target: Path, most_bytes: int) -> None:
    """Write the ``*.txt`` directly inside ``folder`` of a repository's tar.gz into the existing folder ``target``.

    All members of the archive must be in one folder of any name, as code hosts pack them. Links, special files and
    files elsewhere are skipped.

    Args:
        archive: the tar.gz.
        folder: path inside the repository.
        target: the folder that is filled.
        most_bytes: largest size of all texts together.

    Raises:
        DataError: the archive cannot be read, or its texts are larger than ``most_bytes`` together.
    """
    n_bytes = 0
    try:
        with tarfile.open(archive, "r|gz") as members:
            for member, content in _texts(members, PurePosixPath(folder)):
                # a member cannot hold more bytes than its header announces
                n_bytes += member.size
                if n_bytes > most_bytes:
                    raise DataError(f"the texts of {folder} have more than the pinned {most_bytes} bytes")
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
