"""Install this checkout with the pinned packages into the environment whose Python runs this script.

``make install`` and ``make install-gpu`` run ``.venv/bin/python envs/install.py REQUIREMENT ...``. uv installs the
packages, because it is faster than pip; pip installs uv first. If uv cannot be installed or fails, pip installs the
same pins.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PINS = str(_ROOT / "constraints.txt")
_PIP = [sys.executable, "-m", "pip"]
_INSTALL = ["install", "--quiet", "--constraint", _PINS]
# flash-attn has no wheels, and its build needs the torch that is installed
_NEEDS_TORCH = "flash-attn"


def main(requirements: list[str]) -> int:
    """Install the requirements; return the exit code of the installer that ran last."""
    os.chdir(_ROOT)
    if _run([*_PIP, *_INSTALL, "uv"]) == 0:
        options = ["--build-constraint", _PINS]
        if _NEEDS_TORCH in requirements:
            options += ["--no-build-isolation-package", _NEEDS_TORCH]
        uv = [sys.executable, "-m", "uv", "pip", *_INSTALL, *options, "--python", sys.executable, *requirements]
        if _run(uv, uv_environment()) == 0:
            return 0
    print("uv cannot install the packages: pip tries it, which takes longer", file=sys.stderr)
    return _run([*_PIP, *_INSTALL, *(["--no-build-isolation"] if _NEEDS_TORCH in requirements else []), *requirements])


def uv_environment() -> dict[str, str]:
    """Return pip's package sources and certificates as the environment variables of uv, which does not read them."""
    listed = subprocess.run([*_PIP, "config", "list"], capture_output=True, text=True, check=False).stdout
    # such as global.index-url='https://…' and, last because it overrides the files, :env:.index-url='https://…'
    settings = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    found = {
        "UV_DEFAULT_INDEX": settings.get("index-url"),
        "UV_INDEX": settings.get("extra-index-url"),
        "UV_FIND_LINKS": settings.get("find-links"),
        "SSL_CERT_FILE": settings.get("cert"),
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # as pip: the best version of all indexes
    }
    words = {name: " ".join(value.replace("\\n", " ").split()) for name, value in found.items() if value}
    words["UV_FIND_LINKS"] = words.get("UV_FIND_LINKS", "").replace(" ", ",")
    return {name: value for name, value in words.items() if value} | os.environ


def _run(command: list[str], environment: dict[str, str] | None = None) -> int:
    return subprocess.run(command, check=False, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
