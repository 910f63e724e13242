"""A few of the fault drills; `python tests/drills.py` does as many as asked.

Each test compares with an undisturbed run in the end.
"""

import drills
import pytest
import runs


@pytest.mark.slow
@pytest.mark.parametrize('kind', list(drills.SHARES))
def test_killed_commands_lose_nothing(kind, tmp_path):
  with runs.compile_cache(tmp_path / 'cache'):
    drill = drills.Drills(tmp_path / 'drills', seed=1)
    drill.run(kind, 3)
  assert drill.kills[kind] == 3 and drill.rounds[kind] >= 1
