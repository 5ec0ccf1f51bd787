"""Uploads of finished folders to the Hugging Face Hub. The token is read from the environment only."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gateau.errors import SettingsError


def push_if_asked(
    folder: Path, kind: str, hub: dict[str, Any], experiment: str, dry_run: bool, left_out: Collection[str] = ()
) -> None:
    """Upload a folder if the configuration names a repository for it, or only list its files in a dry run.

    Args:
        folder: what is uploaded.
        kind: ``model`` or ``dataset``.
        hub: the section ``export``; read are ``hub_private``, and ``hub_repository`` or ``data_hub_repository``.
        experiment: name that takes the place of ``{experiment}``.
        dry_run: whether the files are only listed.
        left_out: names of files that stay here.

    Raises:
        SettingsError: there is no token, or the Hub rejects the upload.
    """
    key = {"model": "hub_repository", "dataset": "data_hub_repository"}[kind]
    if not (repository := hub.get(key)):
        return
    repository = repository.format(experiment=experiment)
    if dry_run:
        files = describe_upload(folder, left_out)
        logging.info("a push would upload these files (bytes) to %s:\n%s", repository, files)
    else:
        address = push_to_hub(folder, repository, hub.get("hub_private", True), kind, left_out)
        logging.info("pushed to %s", address)


def push_to_hub(
    folder: Path, repository: str, private: bool, kind: str = "model", left_out: Collection[str] = ()
) -> str:
    """Upload a folder to the Hugging Face Hub and return its address.

    The token is read from the environment variable HF_TOKEN, never from a file or an argument.

    Args:
        folder: what is uploaded.
        repository: name of the repository, which is created if it does not exist.
        private: create the repository as private.
        kind: ``model`` or ``dataset``.
        left_out: names of files that stay here.

    Raises:
        SettingsError: if there is no token, or the Hub rejects the upload.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    key = {"model": "export.hub_repository", "dataset": "export.data_hub_repository"}[kind]
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise SettingsError(
            f"{key} is set, but HF_TOKEN is not in the environment; set it, or set {key}: null and push later"
        )
    api = HfApi(token=token)
    message = {"model": "Model trained with GATEAU", "dataset": "Rows selected by GATEAU"}[kind]
    try:
        api.create_repo(repository, private=private, exist_ok=True, repo_type=kind)
        info = api.upload_folder(
            folder_path=folder, repo_id=repository, repo_type=kind, commit_message=message,
            ignore_patterns=[*left_out] or None,
        )  # fmt: skip
    except (HfHubHTTPError, OSError) as error:
        raise SettingsError(f"{repository}: the hub rejects the upload ({str(error).splitlines()[0]})") from None
    return str(info)


def describe_upload(folder: Path, left_out: Collection[str] = ()) -> str:
    """Return the files that a push would upload with their sizes in bytes, as JSON."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in left_out)
    return json.dumps({str(file.relative_to(folder)): file.stat().st_size for file in files}, indent=2)
