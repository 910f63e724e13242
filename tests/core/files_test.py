"""Files of JSON lines, as far as they can be read."""

import pytest

from gans_jax.core import files


@pytest.mark.parametrize('content,found,damaged', [
    (b'', [], 0),
    (b'{"a": 1}\n{"b": null}\n', [{'a': 1}, {'b': None}], 0),
    (b'{"a": 1}\n{"b": 2', [{'a': 1}], 0),  # being written
    (b'{"a": {"b": 1}\n\n[1]\n3\n\xff\n{"b": 2}\n', [{'b': 2}], 5),
    (b'[' * 100_000 + b'\n' + b'9' * 5000 + b'\n', [], 2),
], ids=['empty', 'whole', 'half a line', 'damaged', 'deep'])
def test_read_json_lines(tmp_path, content, found, damaged):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(content)
  assert files.read_json_lines(str(path)) == (found, damaged)
  assert files.read_json_lines(str(tmp_path / 'absent')) == ([], 0)
