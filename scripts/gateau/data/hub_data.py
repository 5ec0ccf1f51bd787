"""Data sets of the Hugging Face hub: which files are taken, fetching them, and checking what came.

The client of the hub fetches into its cache (``HF_HOME``), continues a broken download in the same process, and fetches
only what the cache lacks. It compares sizes only. The digest of every file is therefore compared here with the list of
files of the commit: the SHA-256 of a large file, the git blob id of a small one. The client keeps this list in its
cache, and so does ``hf download --local-dir`` in its folder, which can serve as a mirror.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from gateau.command import Bar
from gateau.digests import file_sha256, git_blob_id
from gateau.errors import DataError
from gateau.files import new_folder, read_json, write_json
from gateau.hub_entries import HubEntry
from gateau.raw_files import ENDINGS, is_data
from gateau.reports import gigabytes

logger = logging.getLogger(__name__)

TRIES = 3
PAUSE_SECONDS = 2.0
_SHOWN = 20  # file names in an error message
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\D.*")
_SERVER_ERROR = 500  # HTTP status from which the server is at fault


@dataclass(frozen=True)
class HubFile:
    """What the hub says about a file: its size in bytes, and the SHA-256 of a large one or the git blob id of any."""

    n_bytes: int
    sha256: str | None
    git_blob: str

    def difference(self, path: Path) -> str | None:
        """Return how a file differs from this one, or None if it is the same."""
        if (n_bytes := path.stat().st_size) != self.n_bytes:
            return f"{n_bytes} bytes instead of {self.n_bytes}"
        kind, wanted, found = (
            ("SHA-256", self.sha256, file_sha256(path))
            if self.sha256
            else ("git blob id", self.git_blob, git_blob_id(path))
        )
        return None if found == wanted else f"{kind} {found} instead of {wanted}"


def write_hub_data(entry: HubEntry, folder: Path, listing: Path, mirror: Path | None = None) -> None:
    """Fetch and verify the files of an entry, and write them to a folder, and their list beside it.

    A revision that is no commit is looked up once. Its commit is kept in ``<folder>.commit.json``, so that running this
    again takes the same files.

    Args:
        entry: the data set.
        folder: the folder, which is written whole or not at all.
        listing: the list, see :mod:`gateau.hub_entries`.
        mirror: a folder that holds data sets as ``OWNER/NAME``, each made by ``hf download --local-dir``. If given, the
            network is not used.

    Raises:
        DataError: the data set cannot be fetched, no file matches, or a file is not the one of the commit.
    """
    source = _Mirror(entry, mirror / entry.hub) if mirror else _Hub(entry)
    commit = _commit(entry, source.resolve, folder.with_name(f"{folder.name}.commit.json"))
    known = source.files(commit)
    chosen = chosen_files(entry, known, commit)
    total = sum(known[path].n_bytes for path in chosen)
    logger.info("%s at commit %s: %d files, %s GB", entry.hub, commit, len(chosen), gigabytes(total))
    place = source.fetch(commit, chosen)
    with new_folder(folder) as temporary:
        files = []
        for path in chosen:
            if difference := known[path].difference(place / path):
                raise DataError(f"{entry.hub}: {path} has {difference}; {source.refuse(place / path)}")
            _link(place / path, temporary / path)
            digest = known[path].sha256 or file_sha256(temporary / path)
            files.append({"path": path, "n_bytes": known[path].n_bytes, "sha256": digest})
    write_json(listing, {"hub": entry.hub, "commit": commit, "files": files})


def ask_hub(entry: HubEntry) -> None:
    """Check that the hub has a data set, and that the token may read it, unless the cache knows the commit.

    Raises:
        DataError: it is not there, may not be read, or the hub cannot be reached.
    """
    source = _Hub(entry)
    if entry.is_pinned and _listed(source.tree(str(entry.revision))) is not None:
        return
    with source.explained():
        source.api.auth_check(entry.hub, repo_type="dataset")


def chosen_files(entry: HubEntry, known: Iterable[str], commit: str) -> list[str]:
    """Return the paths of an entry's files among those of a commit, sorted.

    Without patterns, these are all data files. A file belongs to a split if a folder of its path has the split's name,
    or its own name does: before the numbers in ``train-00000-of-00003.parquet``, or between dots and dashes.

    Raises:
        DataError: no file is chosen, or a path leaves the repository.
    """
    paths = sorted(known)
    if unsafe := [path for path in paths if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts]:
        raise DataError(f"{entry.hub}: the path {unsafe[0]} is outside the repository; use another data set")
    found = (
        [path for path in paths if any(fnmatchcase(path, pattern) for pattern in entry.files)]
        if entry.files
        else [path for path in paths if is_data(PurePosixPath(path))]
    )
    if entry.split:
        found = [path for path in found if _is_of_split(path, entry.split)]
    if found:
        return found
    wanted = f"files: {', '.join(entry.files)}" if entry.files else f"the endings of data files ({ENDINGS})"
    split = f" and split: {entry.split}" if entry.split else ""
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    raise DataError(
        f"{entry.hub} at commit {commit}: no file matches {wanted}{split}; choose among {', '.join(paths[:_SHOWN])}"
        f"{more}"
    )


def _is_of_split(path: str, split: str) -> bool:
    *folders, name = path.split("/")
    if split in folders:
        return True
    if shard := _SHARD.fullmatch(name):
        return shard[1] == split or shard[1].endswith(f"-{split}")
    return re.search(rf"(^|[._-]){re.escape(split)}([._-]|$)", name) is not None


def _commit(entry: HubEntry, resolve: Callable[[str | None], str], kept: Path) -> str:
    """Return the commit of an entry's revision, the one that was fetched before if the revision is no commit."""
    if entry.is_pinned:
        return str(entry.revision)
    if not kept.is_file():
        write_json(kept, {"commit": resolve(entry.revision)})
    commit = str(read_json(kept)["commit"])
    logger.warning(
        "%s: %s is commit %s, and this run keeps it; write revision: %s to get the same files everywhere",
        entry.hub, f"revision {entry.revision}" if entry.revision else "the default branch", commit, commit,
    )  # fmt: skip
    return commit


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, which outlives the first one, or copy it to another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _listed(tree: Path) -> dict[str, HubFile] | None:
    """Return the list of files that the hub's client has kept, or None if there is none that can be read."""
    try:
        content: Mapping[str, Mapping[str, Any]] = read_json(tree)["files"]
        return {path: HubFile(file["size"], file.get("lfs_sha256"), file["blob_id"]) for path, file in content.items()}
    except (DataError, LookupError, TypeError, AttributeError):
        return None


class _Mirror:
    """A folder that ``hf download --local-dir`` made of a data set."""

    def __init__(self, entry: HubEntry, folder: Path) -> None:
        self.entry, self.folder, self.trees = entry, folder, folder / ".cache/huggingface/trees"
        revision = f" --revision {entry.revision}" if entry.revision else ""
        self.advice = f"make it with hf download {entry.hub} --repo-type dataset{revision} --local-dir {folder}"

    def resolve(self, revision: str | None) -> str:
        commits = sorted(tree.stem for tree in self.trees.glob("*.json"))
        if len(commits) > 1:
            raise DataError(f"{self.folder}: the mirror knows {len(commits)} commits; set revision to one of {commits}")
        if not commits:
            raise DataError(f"{self.folder}: no mirror of {self.entry.hub}; {self.advice}, or unset data.hub_mirror")
        return commits[0]

    def files(self, commit: str) -> dict[str, HubFile]:
        found = _listed(self.trees / f"{commit}.json")
        if found is None:
            raise DataError(f"{self.folder}: no mirror of {self.entry.hub} at commit {commit}; {self.advice}")
        return found

    def fetch(self, commit: str, paths: list[str]) -> Path:
        if absent := [path for path in paths if not (self.folder / path).is_file()]:
            raise DataError(f"{self.folder / absent[0]}: not in the mirror ({len(absent)} are absent); {self.advice}")
        return self.folder

    def refuse(self, path: Path) -> str:
        return f"delete {path}, and {self.advice}"


class _Hub:
    """The hub, or its client's cache where the cache has everything."""

    def __init__(self, entry: HubEntry) -> None:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.file_download import repo_folder_name

        # of the environment only, not of a file in the home folder
        self.token = os.environ.get("HF_TOKEN", "").strip()
        self.entry, self.api = entry, HfApi(token=self.token or False)
        folder = repo_folder_name(repo_id=entry.hub, repo_type="dataset")
        self.cache = Path(constants.HF_HUB_CACHE).expanduser() / folder

    def resolve(self, revision: str | None) -> str:
        with self.explained():
            return self.api.resolve_revision(self.entry.hub, repo_type="dataset", revision=revision).resolved

    def tree(self, commit: str) -> Path:
        """Return where the client keeps the list of a commit's files."""
        return self.cache / f"trees/{commit}.json"

    def files(self, commit: str) -> dict[str, HubFile]:
        from huggingface_hub.hf_api import RepoFile

        if (found := _listed(self.tree(commit))) is not None:
            return found
        with self.explained():
            listed = list(self.api.list_repo_tree(self.entry.hub, repo_type="dataset", revision=commit, recursive=True))
        return {
            file.path: HubFile(file.size, file.lfs.sha256 if file.lfs else None, file.blob_id)
            for file in listed
            if isinstance(file, RepoFile)
        }

    def fetch(self, commit: str, paths: list[str]) -> Path:
        patterns = [glob.escape(path) for path in paths]

        def download() -> str:
            return self.api.snapshot_download(
                self.entry.hub, repo_type="dataset", revision=commit, allow_patterns=patterns, tqdm_class=Bar
            )

        with self.explained():
            return Path(_tried(download))

    def refuse(self, path: Path) -> str:
        """Take a wrong file out of the cache, so that it can be fetched again."""
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        return "it is deleted; run again to fetch it anew, or choose another revision if the host serves other content"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of the client into one with advice."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - the client's errors have no common class
            raise DataError(self._explanation(error)) from None

    def _explanation(self, error: Exception) -> str:
        from huggingface_hub import errors

        hub, revision = self.entry.hub, self.entry.revision
        token = "HF_TOKEN may not read it" if self.token else "it is private and needs a token: export HF_TOKEN=…"
        if isinstance(error, errors.GatedRepoError):
            page = f"{self.api.endpoint}/datasets/{hub}"
            return f"{hub} is gated; accept its conditions on {page}, and export HF_TOKEN=… of the same account"
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"{hub} is not a data set on the hub, or {token}; correct the name in data.long or data.short"
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{hub} has no revision {revision}; write a commit, branch or tag of the data set, or leave it out"
        reason = " ".join(str(error).split()) or repr(error)
        if self.token:
            reason = reason.replace(self.token, "HF_TOKEN")
        return (
            f"{hub} cannot be fetched ({reason}); run again where there is a network: what is fetched is kept. Without "
            f"one, copy the client's cache (HF_HOME) of another machine, or set data.hub_mirror"
        )


def _tried(download: Callable[[], str]) -> str:
    """Call ``download``, and call it again if the connection breaks in a way that the client does not mend itself."""
    for number in range(1, TRIES + 1):
        try:
            return download()
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            # errors of files, and all answers of the server, are OSErrors; broken connections are not
            if number == TRIES or (isinstance(error, OSError) and (status or 0) < _SERVER_ERROR):
                raise
            logger.warning("the connection broke (%s); starting try %d of %d", error, number + 1, TRIES)
            time.sleep(PAUSE_SECONDS)
    raise AssertionError("unreachable")
