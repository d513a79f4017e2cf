"""What may go wrong in a way that the user can mend: said in one line, with an exit code, never as a traceback."""


class UserError(Exception):
    """A failure with a message for the user.

    `message` is one line (more only where output of a failed step is quoted) that says what is wrong and what to do.
    `exit_code` follows the contract: 1 failed, 2 bad usage or config, 3 nothing of this cluster runs.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class Busy(UserError):
    """Another operation is under way, or the cluster is starting or stopping: the same may be asked again later."""


class Unknown(UserError):
    """What is spoken of does not exist."""
