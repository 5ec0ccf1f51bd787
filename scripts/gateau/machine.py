"""What ``auto`` settings depend on, told without torch: the installed libraries and the GPUs that this process sees."""

from __future__ import annotations

import ctypes
from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = ("torch", "transformers", "flash-attn", "flash-attn-3", "flash-attn-4")
_MAJOR, _MINOR = 75, 76  # numbers of a CUDA device's attributes: its compute capability


def what_auto_depends_on() -> list[str]:
    """Return versions of libraries and compute capabilities of GPUs; equal lists give ``auto`` equal meanings."""
    return [f"{library} {_version(library)}" for library in _LIBRARIES] + _visible_gpus()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"


def _visible_gpus() -> list[str]:
    """Return the compute capability of each CUDA device that this process sees, as the driver tells."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = []
    for device in range(count.value):
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        found.append(f"GPU {major.value}.{minor.value}")
    return found
