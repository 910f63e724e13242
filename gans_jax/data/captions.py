"""Words about a picture: where things are, word ids.

Tokens are ids of whole words. Id 0 pads and id 1 ends a text; the words
follow in alphabetical order, so that a vocabulary is the same everywhere.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import re

import numpy as np

PAD, END = 0, 1
RELATIONS = ('left of', 'right of', 'above', 'below')
POSITIONS = ('upper left', 'top', 'upper right',
             'left', 'centre', 'right',
             'lower left', 'bottom', 'lower right')
PER_IMAGE = 5
_WORD = re.compile(r'\w+|[^\w\s]')


def relation(a: Sequence[float], b: Sequence[float]) -> int:
  """Where box a lies, seen from box b: an index of RELATIONS.

  The axis along which the centres are further apart decides.
  """
  dx = (a[0] + a[2] / 2) - (b[0] + b[2] / 2)
  dy = (a[1] + a[3] / 2) - (b[1] + b[3] / 2)
  if abs(dx) >= abs(dy):
    return 0 if dx < 0 else 1
  return 2 if dy < 0 else 3


def inverse(relation_id: int) -> int:
  """b's relation to a, where a's to b is given."""
  return relation_id ^ 1


def position(box: Sequence[float], extent: float = 1.0) -> int:
  """Which ninth of the canvas holds the centre: an index of POSITIONS."""
  column = min(int(3 * (box[0] + box[2] / 2) / extent), 2)
  row = min(int(3 * (box[1] + box[3] / 2) / extent), 2)
  return 3 * row + column


def describe(things: Sequence[str], boxes: Sequence[Sequence[float]],
             background: str, extent: float = 1.0) -> list[str]:
  """Five captions: one object with its position, or two with their relation.

  A third and a fourth object are listed after the first two, in every
  caption. Template 2 of two objects names them in the other order.

  Args:
    things: a noun phrase without article per object, at least one.
    boxes: (x0, y0, w, h) per object.
    background: an adjective.
    extent: side of the canvas in the unit of boxes.
  """
  first, *others = (_with_article(thing) for thing in things)
  if len(things) == 1:
    where = POSITIONS[position(boxes[0], extent)]
    return [
        f'{first} at the {where} on a {background} background',
        f'there is {first} at the {where} of a {background} picture',
        f'on a {background} background , at the {where} , {first}',
        f'a {background} picture with {first} at the {where}',
        f'{things[0]} , at the {where} , the background is {background}',
    ]
  second, *others = others
  forth = relation(boxes[0], boxes[1])
  back = RELATIONS[inverse(forth)]
  forth = RELATIONS[forth]
  rest = ''.join(f' and {other}' for other in others)
  rest = rest and f' ,{rest}'
  return [
      f'{first} {forth} {second}{rest} on a {background} background',
      f'there is {first} {forth} {second}{rest} on a {background} picture',
      f'{second} {back} {first}{rest} on a {background} background',
      f'a {background} picture with {first} {forth} {second}{rest}',
      f'{things[0]} , {forth} {second}{rest} , '
      f'the background is {background}',
  ]


def _with_article(thing: str) -> str:
  return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


TEMPLATE_WORDS = ('a an on background there is of picture with at the , and '
                  'left right above below upper top centre lower bottom')


def split_words(text: str) -> list[str]:
  """Lower-case words and single punctuation marks of a text."""
  return _WORD.findall(text.lower())


class Vocabulary:
  """Words and their ids.

  Attributes:
    words: the word of every id; '<pad>' and '<end>' are the first two.
    length: ids per text, the end included.
  """

  def __init__(self, texts: Iterable[str], length: int):
    words = {word for text in texts for word in split_words(text)}
    self.words = ('<pad>', '<end>', *sorted(words))
    self.length = length
    self._ids = {word: i for i, word in enumerate(self.words)}

  def __len__(self) -> int:
    return len(self.words)

  def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Word ids of texts.

    Returns:
      `tokens` int32 [N, length], padded with 0 behind the end mark, and
      `text_mask` bool [N, length], True on the words and the end mark: the
      end stands at text_mask.sum() - 1.

    Raises:
      ValueError: a text has more than length - 1 words.
      KeyError: a word is not in the vocabulary.
    """
    tokens = np.zeros([len(texts), self.length], np.int32)
    for row, text in zip(tokens, texts, strict=True):
      ids = [self._ids[word] for word in split_words(text)]
      if len(ids) >= self.length:
        raise ValueError(f'{len(ids)} words do not fit {self.length}: {text}')
      row[:len(ids)] = ids
      row[len(ids)] = END
    return {'tokens': tokens, 'text_mask': tokens != PAD}

  def decode(self, tokens: np.ndarray) -> str:
    """The text of one row of ids, up to its end mark."""
    ids = tokens.tolist()
    if END in ids:
      ids = ids[:ids.index(END)]
    return ' '.join(self.words[i] for i in ids)
