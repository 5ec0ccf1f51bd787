"""Where the project's own files lie: in a checkout beside this package, in an installed wheel inside it.

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
