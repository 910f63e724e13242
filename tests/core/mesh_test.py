"""Meshes, sharding rules, and the batch constraint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib

P = jax.sharding.PartitionSpec


@pytest.mark.parametrize('data, model, shape', [
    (-1, 1, (8, 1)), (-1, 2, (4, 2)), (2, 4, (2, 4)), (1, 1, (1, 1))])
def test_shapes(data, model, shape):
  mesh = mesh_lib.make(data, model)
  assert (mesh.shape['data'], mesh.shape['model']) == shape


@pytest.mark.parametrize('data, model', [(-1, 3), (16, 1), (0, 1), (4, 4)])
def test_impossible_shapes_are_refused(data, model):
  with pytest.raises(errors.UserError, match='devices'):
    mesh_lib.make(data, model)


def test_platform_is_that_of_the_mesh_in_force():
  assert mesh_lib.platform() == 'cpu'
  with jax.set_mesh(mesh_lib.make()):
    assert mesh_lib.platform() == 'cpu'
  tpu = jax.sharding.AbstractDevice(
      device_kind='TPU v6 lite', num_cores=1, platform='tpu')
  mesh = jax.sharding.AbstractMesh((2,), ('data',), abstract_device=tpu)
  with jax.sharding.use_abstract_mesh(mesh):
    assert mesh_lib.platform() == 'tpu'


def test_part_of_the_devices():
  mesh = mesh_lib.make(2, 2, jax.devices()[2:6])
  assert mesh.devices.tolist() == [jax.devices()[2:4], jax.devices()[4:6]]


def test_batch_must_split():
  mesh = mesh_lib.make()
  mesh_lib.check_batch(16, 2, mesh)
  with pytest.raises(errors.UserError, match='multiple of 16'):
    mesh_lib.check_batch(24, 2, mesh)


@pytest.mark.parametrize('shape, model, spec', [
    ((3, 3, 128, 256), 4, P(None, None, None, 'model')),
    ((3, 3, 256, 128), 4, P(None, None, 'model')),
    ((3, 3, 256, 256), 4, P(None, None, None, 'model')),
    ((3, 3, 8, 8), 4, P()),                # too small to be worth it
    ((129, 257), 4, P()),                  # nothing divides
    ((512, 512), 1, P()),
])
def test_split_largest_axis(shape, model, spec):
  assert mesh_lib.split_largest_axis(shape, model) == spec


def test_rules_decide_by_path():
  mesh = mesh_lib.make(-1, 2)
  big = jax.ShapeDtypeStruct((256, 256), jnp.float32)
  tree = {'params': {'G': {'kernel': big}}, 'aux': {'pool': big},
          'key': jax.eval_shape(lambda: jax.random.key(0))}
  found = mesh_lib.shardings(tree, mesh)
  assert found['params']['G']['kernel'].spec == P(None, 'model')
  assert found['aux']['pool'].spec == P()
  assert found['key'].spec == P()
  with pytest.raises(errors.UserError, match='No sharding rule'):
    mesh_lib.shardings(tree, mesh, [('^params/', 'split')])


def test_random_numbers_are_those_of_one_device():
  def draw(key):
    return mesh_lib.shard_batch(jax.random.normal(key, [16, 4]))

  key = jax.random.key(3)
  alone = jax.jit(draw)(key)
  with jax.set_mesh(mesh_lib.make()):
    spread = jax.jit(draw)(key)
  assert spread.sharding.spec == P('data')
  np.testing.assert_array_equal(alone, spread)


def test_to_global_and_back():
  mesh = mesh_lib.make()
  batch = {'image': np.arange(2 * 16 * 3).reshape(2, 16, 3)}
  spread = mesh_lib.to_global(batch, mesh)
  assert spread['image'].sharding.spec == P(None, 'data')
  np.testing.assert_array_equal(
      mesh_lib.to_host(spread)['image'], batch['image'])
