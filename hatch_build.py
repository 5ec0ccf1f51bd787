"""Put the library into a wheel as the package ``gateau``; an editable install finds it in the checkout instead."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LibraryHook(BuildHookInterface):
    """Include the library in standard wheels only: in an editable one it would be a copy that goes out of date."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the library to the files of a standard wheel."""
        if version == "standard":
            build_data["force_include"]["scripts/gateau"] = "gateau"
