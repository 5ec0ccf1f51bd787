"""Errors that a user can correct, one type per kind of mistake.

Each message says where the mistake is (file, row, id or configuration key), what is wrong, and what to do.
:mod:`gateau.command` prints it without a traceback. Any other exception is a bug in this project and keeps its
traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Base class of all errors that the user can correct."""


class DataError(UserError):
    """Data that cannot be used: missing, empty, malformed, or with more rejected rows than configured."""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or is unsuitable for its role."""


class SettingsError(UserError):
    """A setting with an invalid value."""


class ScoreError(UserError):
    """Scores that are missing, duplicated, or not finite."""


class TableError(UserError):
    """A table between two stages that does not have the expected schema."""


class TrainingError(UserError):
    """A training that cannot continue: its loss is not finite, or it was stopped and will resume."""


class ServerError(UserError):
    """A model server or judge that refuses a call, does not answer, or would exceed its budget."""


class JudgeError(UserError):
    """Judgments that cannot be used, because too many answers have no rating."""
