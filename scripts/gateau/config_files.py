"""Reads configuration files, and lays them over the default configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from gateau.config_schema import first_problem
from gateau.errors import SettingsError
from gateau.places import DEFAULT_CONFIG, SCHEMA

# keys whose values are paths, or lists of paths; a data set of the hub in a list is none
_PATHS = (
    "results_dir", "progress_dir", "data.long", "data.short", "data.hub_mirror", "train.checkpoint_dir",
    "train.deepspeed", "evaluate.assets.cache", "evaluate.assets.root", "evaluate.harness.cache",
    "evaluate.harness.include_path",
)  # fmt: skip


def with_defaults(config: Mapping[str, Any], defaults: Path = DEFAULT_CONFIG) -> dict[str, Any]:
    """Return ``config`` merged key by key into the default configuration.

    If ``config`` has experiments, they replace all default ones.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    result: dict[str, Any] = yaml.load(defaults.read_text(encoding="utf-8"), Loader=loader)
    if "experiments" in config:
        result["experiments"] = {}
    _merge(result, config)
    return result


def _merge(config: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = deepcopy(value)


def read_configuration(files: Sequence[str]) -> dict[str, Any]:
    """Return the default configuration with the given files merged into it, as Snakemake and the workflow do it.

    Raises:
        SettingsError: a file is missing or not a YAML mapping, or the whole does not follow the schema.
    """
    import yaml
    from snakemake.utils import update_config, validate  # type: ignore[import-untyped]

    given: dict[str, Any] = {}
    for file in files:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{file}: cannot be read ({error.strerror})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file}: not valid YAML ({error})") from error
        if not isinstance(content, dict):
            raise SettingsError(f"{file}: not a mapping of keys; see config/README.md")
        update_config(given, content)
    config = completed(given)
    validate(config, str(SCHEMA))  # fills in the defaults of optional sections
    return config


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` merged into the default configuration, with the home directory in place of ``~`` in paths.

    Raises:
        SettingsError: a key is unknown or a value is not allowed. The message is one line for people.
    """
    config = with_defaults(given)
    if problem := first_problem(config):
        raise SettingsError(problem)
    for key in _PATHS:
        *sections, name = key.split(".")
        section = reduce(getitem, sections, config)
        section[name] = _with_home(section[name])
    return config


def _with_home(value: Any) -> Any:
    """Return a path, or a list of paths, with the home directory in place of ``~``; another value unchanged."""
    if isinstance(value, list):
        return [_with_home(one) for one in value]
    return os.path.expanduser(value) if isinstance(value, str) else value
