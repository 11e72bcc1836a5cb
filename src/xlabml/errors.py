"""Errors that a caller, a server or a script has to tell apart.

XLabError
    SettingsError                       a setting has to change: bad values, or two that do not go together
        VocabularyError                 the texts have fewer tokens to learn than data.n_vocab names
        NotSupportedError               right elsewhere, but not on this machine: a device, a library
        commands.errors.UsageError      the same as SettingsError, found by the command line itself
    RequestError                        a request to a model has to change: a prompt, a temperature
    DataError                           texts, or data prepared from them, are unusable or changed
        data.stream.shards.NoRoom       a shard of a stream does not fit into its cache
    CheckpointError                     a file is no checkpoint, or is not usable for this
        DamagedError                    it is not as it was written
        untrusted.kinds.WrongError      it holds a value of the wrong kind
    inference.sampling.NonFiniteLogitsError     a model computes NaN or infinity
    commands.run_lock.RunInUse          another process trains the run

All but the last are ValueErrors, that one is an OSError. A command ends with status 2 after SettingsError and
RequestError, with 1 after the others (docs/exit_status.md). What is wrong with a disk or the network is an OSError of
Python's own, an argument that only code can give a ValueError.
"""

from typing import ClassVar


class XLabError(Exception):
    """Base of all errors that have a class of their own here.

    Attributes:
        exit_status: What a command ends with.
    """

    exit_status: ClassVar[int] = 1


class SettingsError(XLabError, ValueError):
    """A setting does not fit another one, the data or the checkpoint: it is the setting that has to change."""

    exit_status: ClassVar[int] = 2


class NotSupportedError(SettingsError):
    """A setting is not supported on this machine."""


class VocabularyError(SettingsError):
    """A tokenizer cannot have as many tokens: the texts have no more pieces to learn.

    Args:
        message: For people.
        most: How many it can have.
    """

    def __init__(self, message: str, most: int) -> None:
        super().__init__(message)
        self.most = most


class RequestError(XLabError, ValueError):
    """A request to a model cannot be served: the request has to change."""

    exit_status: ClassVar[int] = 2


class DataError(XLabError, ValueError):
    """Texts, or data prepared from them, are unusable or have changed."""


class CheckpointError(XLabError, ValueError):
    """A file is no checkpoint of ours, or cannot be used for this purpose."""


class DamagedError(CheckpointError):
    """A checkpoint is not as it was written."""
