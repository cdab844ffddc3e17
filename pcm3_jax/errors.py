"""The one exception for what a user can put right."""


class UserError(Exception):
    """Bad input, told in one sentence: what, where, and what to do.

    Entry points print it without a traceback and leave with exit code 1.
    """
