"""The one error that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: one line saying where, what is wrong and what to do.

    The command line prints the message alone and exits with code 2.
    """
