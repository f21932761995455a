"""What goes wrong, kept apart: what a user can mend, what one record did, and how a run that was stopped ends.

Anything else that is raised is a mistake of ours and ends in a traceback. The command's exit code stands on each class.
"""


class UserError(ValueError):
    """Something that a user can mend. The message is one sentence: which file, field or option, and what would be right."""

    exit_code = 2


class RefusedConversationError(UserError):
    """A model cannot be given this conversation, and others can: it is too long, or not of the kind that the model reads."""


class BadSample(ValueError):  # noqa: N818  (what it says is what it is)
    """One record that cannot be read or learned from. It is quarantined with this reason, and the others stay."""

    exit_code = 2


class WriteError(OSError):
    """Something could not be written; the message says what, and why."""

    exit_code = 74  # EX_IOERR


class Interrupted(Exception):  # noqa: N818  (it is no error: the run was asked to stop, and did)
    """The run was asked to stop and did, after a checkpoint; `--resume` continues it."""

    exit_code = 75  # EX_TEMPFAIL: try again
