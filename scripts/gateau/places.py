"""Paths of the project's own files: beside this package in a checkout, inside it in an installed wheel.

A wheel carries the rule scripts, the default configuration, the schema, the DeepSpeed files and the resources in the
folder ``gateau/_project``, laid out as in the checkout.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
_INSTALLED = PACKAGE / "_project"

ROOT = _INSTALLED if _INSTALLED.is_dir() else PACKAGE.parents[1]
SCRIPTS = ROOT / "scripts"
DEFAULT_CONFIG = ROOT / "config/config.yaml"
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
RESOURCES = ROOT / "workflow/resources"
OWN_SETS = RESOURCES / "small_benchmarks"
