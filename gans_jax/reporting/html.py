"""HTML that cannot be broken out of: what is not Markup is escaped."""

import html
import json

# Elements that have no end.
_VOID = ('br', 'img', 'input', 'link', 'meta')


class Markup(str):
  """Text that is HTML already."""


def tag(name: str, /, *children, **attributes) -> Markup:
  """Returns an element.

  Args:
    name: such as 'td'.
    *children: Markup goes in as it is; all else is text, and escaped. Lists
      are children too; None is none.
    **attributes: a trailing underscore is dropped (class_) and others are
      hyphens (data_step). True is the attribute alone; False and None are
      none.
  """
  words = [name]
  for key, value in attributes.items():
    key = key.rstrip('_').replace('_', '-')
    if value is True:
      words.append(key)
    elif value is not None and value is not False:
      words.append(f'{key}="{html.escape(str(value))}"')
  start = f'<{" ".join(words)}>'
  if name in _VOID:
    return Markup(start)
  return Markup(f'{start}{join(*children)}</{name}>')


def join(*children) -> Markup:
  """Returns children one after the other; see `tag`."""
  parts = []
  for child in children:
    if isinstance(child, Markup):
      parts.append(child)
    elif isinstance(child, (list, tuple)):
      parts.append(join(*child))
    elif child is not None:
      parts.append(html.escape(str(child)))
  return Markup(''.join(parts))


def data(name: str, value) -> Markup:
  """Returns a block of JSON for the page's script, which finds it by id."""
  text = json.dumps(value, allow_nan=False, separators=(',', ':'))
  for character in '<>&\u2028\u2029':
    text = text.replace(character, f'\\u{ord(character):04x}')
  return Markup(f'<script type="application/json" id="{html.escape(name)}">'
                f'{text}</script>')


def table(head, rows, class_: str = '') -> Markup:
  """Returns a table that scrolls by itself where the window is narrow.

  Args:
    head: the cells of its first row.
    rows: lists of cells; the first of each is the row's name.
    class_: of the table.
  """
  body = [tag('tr', tag('th', row[0], scope='row'),
              [tag('td', cell) for cell in row[1:]]) for row in rows]
  return tag('div', tag(
      'table', tag('thead', tag('tr', [
          tag('th', cell, scope='col') for cell in head])),
      tag('tbody', body), class_=class_ or None), class_='scroll', tabindex=0)


def folded(title, *children, open_: bool = False) -> Markup:
  """Returns what is shown only after a click on its title."""
  return tag('details', tag('summary', title), *children, open=open_)
