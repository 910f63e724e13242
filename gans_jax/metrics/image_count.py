"""Numbers of images in names of metrics: 50k, 2048."""


def read(digits: str, kilo: str, num: int = 0) -> int:
  """Returns how many images a name asks for.

  Args:
    digits: of the name.
    kilo: 'k', or empty.
    num: replaces the number in the name, if positive.
  """
  return num or int(digits) * (1000 if kilo else 1)


def write(count: int) -> str:
  """Returns the canonical spelling: '50k' of 50,000, '2048' of 2,048."""
  return f'{count // 1000}k' if count % 1000 == 0 else str(count)
