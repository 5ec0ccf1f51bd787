"""Finish a shard whose samples are all stored, within a second: without torch, a tokenizer or a model.

The key of a progress store holds what ``auto`` stands for, and only torch and the model's config tell that. A pass
therefore notes, beside its stores, which settings its arguments led to. The note is found by a digest of everything
that these settings follow from: the arguments, the files of the model, the index's tokenizer and frame, the code, the
installed libraries and the GPUs. A pass writes the note only after it has checked its tokenizer and its window.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gateau.digests import settings_digest
from gateau.files import write_json
from gateau.machine import what_auto_depends_on
from gateau.model_files import ModelSpec, tokenizer_fingerprint, weights_fingerprint
from gateau.schemas import INDEX, SAMPLES
from gateau.scoring.segments import Screen
from gateau.scoring.settings import numerics_version
from gateau.scoring.shards import SampleReader, Shard, index_of_shard
from gateau.scoring.store import ProgressStore
from gateau.tables import read_metadata


@dataclass(frozen=True)
class Note:
    """What the arguments of a pass led to when it last ran.

    Attributes:
        path: file of the note.
    """

    path: Path

    @classmethod
    def of(cls, args: argparse.Namespace, spec: ModelSpec, name: str, options: Mapping[str, Any]) -> Note:
        """Return the note of these arguments, whether it exists or not.

        Args:
            args: the parsed arguments of a pass.
            spec: the resolved model.
            name: name of the pass.
            options: further settings of the pass.
        """
        asked = {
            "weights": weights_fingerprint(spec.path, spec.revision),
            "tokenizer": tokenizer_fingerprint(spec.path, spec.revision),
            "model": [spec.window, spec.rope_parameters, spec.trust_remote_code],
            "index": read_metadata(args.index, INDEX),
            "code": numerics_version(),
            "auto": what_auto_depends_on(),
            "options": {**options},
            **{key: getattr(args, key) for key in ("device", "dtype", "attention", "max_length")},
        }
        return cls(Path(args.progress_dir, name, f"{settings_digest(asked, 32)}.json"))

    def write(self, settings: Mapping[str, Any], window: int | None) -> None:
        """Note the settings, and the window that the pass cuts its samples to."""
        write_json(self.path, {"settings": dict(settings), "window": window})

    def finish(self, args: argparse.Namespace, name: str, schema: pa.Schema, screen: Screen | None = None) -> bool:
        """Write the shard's results if all of them are stored. Return whether they are.

        Args:
            args: the parsed arguments of a pass.
            name: name of the pass.
            schema: columns of a result.
            screen: which samples are read in part or not at all.
        """
        try:
            noted = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        window = noted["window"]
        index = index_of_shard(args.index, args.shard)
        samples = SampleReader(args.samples, SAMPLES)
        shard = Shard(
            name,
            schema,
            lambda n_frame: window is None or n_frame <= window,
            index if screen is None else screen.apply(index, samples),
            samples,
            ProgressStore(args.progress_dir, name, noted["settings"], schema),
        )
        if shard.missing:
            return False
        shard.report()
        shard.write(args.output)
        return True
