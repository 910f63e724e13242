"""Runs of SNGAN, SAGAN and BigGAN on nets that compile in seconds."""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from gans_jax.core import config as config_lib
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib
from gans_jax.nn import spectral_norm

FAST = {'xla_backend_optimization_level': 0}


@functools.cache
def make(name, resolution=8, classes=3, batch=8, **values):
  """Builds a system for `classes` labels; 0 for data without.

  Equal arguments give one system, whose `initial` is computed once.
  """
  config = config_lib.base(name)
  config_lib.assign(config, {'total_steps': 100, 'batch_size': batch,
                             **values})
  keys = ('image', 'label') if classes else ('image',)
  return system_lib.create(
      config, spec_lib.DataSpec(resolution, 3, classes, 100, keys))


def counts(name, resolution, classes, **values) -> tuple[int, int]:
  """Returns the parameters of (G, D), computing nothing."""
  params = system_lib.abstract_state(
      make(name, resolution, classes, **values)).params
  return state_lib.count(params['G']), state_lib.count(params['D'])


@functools.cache
def initial(system):
  """Returns the state of step 0."""
  return jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))


def compiled(function, **options):
  return jax.jit(function, compiler_options=FAST, **options)


def judge(system, variables, x, labels):
  """Returns what D makes of images: (logits, class logits or None)."""
  return compiled(system.nets['D'].apply)(variables['D'], x, labels)


def batch_of(system, batch=8, seed=0):
  generator = np.random.default_rng(seed)
  shape = (system.batches_per_step, batch)
  values = {'image': generator.integers(0, 256, (*shape, *system.image_shape),
                                        np.uint8)}
  if 'label' in system.requires:
    values['label'] = generator.integers(0, system.classes, shape, np.int32)
  return values


@dataclasses.dataclass(frozen=True)
class Program:
  """A train step compiled for some devices.

  Attributes:
    compiled: the executable.
    state: of step 0.
    batch: the batch.
  """

  compiled: Any
  state: Any
  batch: Any

  def run(self):
    return self.compiled(self.state, self.batch)


def program(system, devices: int, batch: int) -> Program:
  mesh = mesh_lib.make(data=devices, devices=jax.devices()[:devices])
  with jax.set_mesh(mesh):
    abstract = system_lib.abstract_state(system)
    shardings = mesh_lib.shardings(abstract, mesh)
    state = jax.device_put(initial(system), shardings)
    placed = mesh_lib.to_global(batch_of(system, batch), mesh)
    compiled = jax.jit(
        lambda s, b: system.train_step(s, b, {}),
        out_shardings=(shardings, None)).lower(state, placed).compile(
            compiler_options=FAST)
  return Program(compiled, state, placed)


def assert_close(a, b, tolerance):
  """Each array to `tolerance` of its largest element.

  Some gradients are zero but for rounding (of a bias before batch
  normalization): arrays a million times smaller than the largest count as it.
  """
  def values(tree):
    return {mesh_lib.path_name(path): np.asarray(x, np.float64)
            for path, x in jax.tree_util.tree_leaves_with_path(tree)}

  a, b = values(a), values(b)
  assert a.keys() == b.keys()
  top = max(np.abs(x).max() for x in b.values())
  for name, y in b.items():
    scale = max(np.abs(y).max(), 1e-6 * top / tolerance)
    np.testing.assert_allclose(a[name], y, rtol=0, atol=tolerance * scale,
                               err_msg=name)


class PlainGenerator(nn.Module):
  """Without batch normalization, so that examples do not meet.

  Attributes:
    shape: of the images.
    rule: of spectral normalization.
  """

  shape: tuple[int, int, int]
  rule: spectral_norm.Rule | None = None

  @nn.compact
  def __call__(self, z, labels, train):
    del labels, train
    x = spectral_norm.Dense(int(np.prod(self.shape)), self.rule)(z)
    return nn.tanh(x).reshape(-1, *self.shape)


def without_batch_norm(system):
  """Returns the system with a `PlainGenerator`."""
  plain = PlainGenerator(system.image_shape, system.rule)
  return dataclasses.replace(system, nets={**system.nets, 'G': plain})
