"""What can go wrong through a user's input, one type per kind of mistake.

Each message says where (file, row, id or config key), what, and what to do. :mod:`gateau.command` prints it without a
traceback; every other exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Base of all errors that the user can put right."""


class DataError(UserError):
    """Raw data that cannot be used: missing, empty, or rejected beyond the configured bound."""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or does not fit its role."""


class SettingsError(UserError):
    """A setting whose value makes no sense here."""


class ScoreError(UserError):
    """Scores that are missing, doubled, or not finite."""


class TableError(UserError):
    """A table between two stages that does not have the schema it should have."""


class TrainingError(UserError):
    """A training that cannot go on: its loss is not finite, or it was told to stop and will resume."""


class ServerError(UserError):
    """A model server or judge that refuses, does not answer, or would exceed its budget."""


class JudgeError(UserError):
    """Judgments that cannot be used: too many answers without a rating."""
