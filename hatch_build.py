"""Put the importable packages at the top of a wheel; an editable install finds them in the checkout instead."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LibraryHook(BuildHookInterface):
    """Include the packages in standard wheels only: in an editable one they would be copies that go out of date."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the library and the logger to the files of a standard wheel."""
        if version == "standard":
            for package in ("gateau", "snakemake_logger_plugin_lines"):
                build_data["force_include"][f"scripts/{package}"] = package
