"""What is not Markup is escaped, in elements, attributes and data."""

import html.parser
import json

import pytest

from gans_jax.reporting import html as html_lib

EVIL = '</script><script>alert(1)</script>"\'><img src=x onerror=alert(2)>&amp;'


class Reader(html.parser.HTMLParser):
  """Collects elements, attributes and text as a browser would see them."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.text = [], [], ''
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs

  def handle_data(self, data):
    self.text += data


@pytest.mark.parametrize('make', [
    lambda x: html_lib.tag('p', x), lambda x: html_lib.tag('p', [x]),
    lambda x: html_lib.folded(x), lambda x: html_lib.join(x, None),
    lambda x: html_lib.table((x,), []),
], ids=['text', 'list', 'title', 'join', 'cell'])
def test_text_is_inert(make):
  found = Reader(make(EVIL))
  assert found.text == EVIL
  assert not {'script', 'img'} & set(found.tags)


def test_attributes_are_inert():
  found = Reader(html_lib.tag('a', 'x', title=EVIL, class_='c', data_a=1,
                              hidden=True, id=None, open=False))
  assert found.tags == ['a']
  assert found.attributes == [
      ('title', EVIL), ('class', 'c'), ('data-a', '1'), ('hidden', None)]


def test_data_is_inert_and_read_back():
  value = {EVIL: [EVIL, 1.5, None, '\u2028', 'ü']}
  text = html_lib.data('d', value)
  found = Reader(text)
  assert found.tags == ['script']
  assert ('type', 'application/json') in found.attributes
  assert json.loads(found.text) == value
  assert '<' not in found.text and text.isascii()


def test_markup_is_kept():
  inner = html_lib.tag('b', 'a & b')
  assert html_lib.tag('p', 1, inner) == '<p>1<b>a &amp; b</b></p>'
  assert html_lib.tag('br') == '<br>'
