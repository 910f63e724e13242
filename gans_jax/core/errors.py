"""The one error that a user can cause, and can read."""


class UserError(Exception):
  """Bad input, told in one paragraph.

  The message says which file or key, what was found, what was expected and
  what to do. Commands print it without a traceback and exit with code 2.
  """
