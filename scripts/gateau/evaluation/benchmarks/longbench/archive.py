"""LongBench's ``data.zip``."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from gateau.errors import DataError
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS

# the real data.zip unpacks to less than a tenth of this
_MOST_BYTES = 4 << 30


def unpack(archive: Path, folder: Path) -> None:
    """Write LongBench's 21 data sets and LongBench-E's 13 from its ``data.zip`` to the new folder ``folder``.

    Raises:
        DataError: a data set is missing, the data sets are far too large, or the zip is damaged.
    """
    names = [f"{item.name}.jsonl" for item in DATA_SETS.values()]
    names += [f"{item.name}_e.jsonl" for item in DATA_SETS.values() if item.extended]
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as members:
            size = sum(members.getinfo(f"data/{name}").file_size for name in names)
            if size > _MOST_BYTES:
                raise DataError(f"{archive}: {size} bytes of data sets, far more than LongBench's; delete it")
            for name in names:
                with members.open(f"data/{name}") as packed, (folder / name).open("wb") as output:
                    shutil.copyfileobj(packed, output, 1 << 20)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DataError(
            f"{archive}: not LongBench's data.zip ({error}); delete it, and its pin in pins.json, to fetch it again"
        ) from error
