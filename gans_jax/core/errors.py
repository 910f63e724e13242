"""The one error that a user can cause, and can read; errors in one line."""


class UserError(Exception):
  """Bad input, told in one paragraph.

  The message says which file or key, what was found, what was expected and
  what to do. Commands print it without a traceback and exit with code 2.
  """


def one_line(error: BaseException) -> str:
  """Returns an error's text in one line, or its type where it has none."""
  return ' '.join(str(error).split()) or type(error).__name__
