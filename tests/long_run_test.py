"""Five thousand steps leave nothing behind."""

import long_run
import pytest
import runs

pytestmark = pytest.mark.slow


def test_nothing_grows_in_five_thousand_steps(tmp_path):
  watch = long_run.run(runs.write_config(tmp_path), tmp_path / 'run', 5000,
                       *long_run.SMALL)
  assert not watch.grown(), watch.marks
  assert sum('train_step' in name for name in watch.programs) == 1
