"""The one exception for what a user can put right: its message is shown without a traceback."""


class UserError(ValueError):
    """Wrong input. The message names the file, key or class id, what was found, what was expected, and what to do."""


class Interrupted(Exception):
    """A signal asked a job to stop, which it did in an orderly way: the same command again goes on from there."""
