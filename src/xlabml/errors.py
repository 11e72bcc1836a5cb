"""Errors that a caller has to tell apart.

ValueError
    SettingsError           what was set or typed cannot be done as it is: the commands end with status 2
        commands.UsageError     the same, found out by the command line itself
"""


class SettingsError(ValueError):
    """A setting does not fit another one, the data or the checkpoint: it is the setting that has to change.

    What is wrong with a file, a disk or the network is a plain ValueError or OSError.
    """
