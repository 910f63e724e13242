"""The comparison runs; what it measures is no test's business."""

import jax
import pytest
import speed

from gans_jax.core import mesh as mesh_lib

pytestmark = pytest.mark.slow


def test_vqgan(capsys):
  official = speed.vqgan('', size=32, ch=32, ch_mult=(1, 1), codes=16,
                         batch_size=2)
  with jax.set_mesh(mesh_lib.make(1, 1)):
    ratios = speed.compare(official, rounds=2, calls=1)
  assert (ratios > 0).all()
  assert 'round 2: ' in capsys.readouterr().out
