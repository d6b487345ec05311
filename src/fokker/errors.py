"""What a user can get wrong, told in one line."""


class InputError(ValueError):
    """A user's mistake: what was wrong, the value received, what is accepted.

    The command line prints the message alone and leaves with status 2. Everything else that is raised is
    either the environment's failure (`OSError`, status 1) or a defect of the library (a traceback).
    """


class NotFinite(InputError, FloatingPointError):
    """Measurements for which there are no finite samples, as can happen far outside the training data."""


class Diverges(InputError):
    """A guided posterior whose samples go astray, its steps too long for this noise, or that has no particle left."""


def told(error: Exception) -> str:
    """What a user's function that has to be differentiated said when it failed, in a line."""
    said = str(error).strip().split("\n")[0].rstrip(".")
    return "numpy has no gradient; operations of torch are accepted" if "numpy()" in said else said
