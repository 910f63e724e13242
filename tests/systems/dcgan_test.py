"""DCGAN: the networks and the step against PyTorch, and the program."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gans_jax.convert import dcgan as convert
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import hlo
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.data import spec as spec_lib
from gans_jax.systems import dcgan

FAST = {'xla_backend_optimization_level': 0}
SMALL = {'model.ngf': 4, 'model.ndf': 4, 'model.z_dim': 6}


def make(resolution=16, channels=3, **values):
  config = config_lib.base('dcgan')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': 8, **SMALL,
                             **values})
  spec = spec_lib.DataSpec(resolution, channels, 0, 100, ('image',))
  return dcgan.create(config, spec)


def initial(system):
  return jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))


def batch_of(system, batch=8, seed=0):
  images = np.random.default_rng(seed).integers(
      0, 256, (1, batch, *system.image_shape), np.uint8)
  return {'image': images}


def compiled_on(devices, system, batch):
  mesh = mesh_lib.make(data=devices, devices=jax.devices()[:devices])
  with jax.set_mesh(mesh):
    abstract = jax.eval_shape(system.init, jax.random.key(0))
    shardings = mesh_lib.shardings(abstract, mesh)
    state = jax.jit(system.init, out_shardings=shardings)(jax.random.key(0))
    batch = mesh_lib.to_global(batch, mesh)
    program = jax.jit(lambda s, b: system.train_step(s, b, {}),
                      out_shardings=(shardings, None)).lower(
                          state, batch).compile(compiler_options=FAST)
    return program, state, batch


def assert_close(a, b, tolerance):
  """Each array to `tolerance` of its largest element."""
  def one(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    np.testing.assert_allclose(x, y, rtol=0,
                               atol=tolerance * max(np.abs(y).max(), 1e-12))

  jax.tree.map(one, a, b)


@pytest.mark.parametrize('resolution, channels, values, g, d', [
    (64, 3, {}, 3_576_704, 2_765_568),
    (64, 1, {}, 3_574_656, 2_763_520),
    (32, 3, {}, 1_068_928, 663_296),
    (64, 3, dcgan.PAPER, 18_885_760, 17_232_768),
])
def test_parameter_counts(resolution, channels, values, g, d):
  full = {'model.ngf': 64, 'model.ndf': 64, 'model.z_dim': 100}
  system = make(resolution, channels, **{**full, **values})
  params = jax.eval_shape(system.init, jax.random.key(0)).params
  assert state_lib.count(params['G']) == g
  assert state_lib.count(params['D']) == d


# --- Against PyTorch --------------------------------------------------------


def torch_generator(z_dim=6, ngf=4, channels=3, levels=2):
  """The sheet's table, with `levels` doublings between 4x4 and the image."""
  layers, width = [], ngf * 2**(levels - 1)
  layers += [torch.nn.ConvTranspose2d(z_dim, width, 4, 1, 0, bias=False),
             torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
  for _ in range(levels - 1):
    layers += [torch.nn.ConvTranspose2d(width, width // 2, 4, 2, 1,
                                        bias=False),
               torch.nn.BatchNorm2d(width // 2), torch.nn.ReLU()]
    width //= 2
  layers += [torch.nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False),
             torch.nn.Tanh()]
  return seeded(layers, 1)


def torch_discriminator(ndf=4, channels=3, levels=2):
  """The logit: no sigmoid."""
  layers = [torch.nn.Conv2d(channels, ndf, 4, 2, 1, bias=False),
            torch.nn.LeakyReLU(0.2)]
  width = ndf
  for _ in range(levels - 1):
    layers += [torch.nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
               torch.nn.BatchNorm2d(2 * width), torch.nn.LeakyReLU(0.2)]
    width *= 2
  layers += [torch.nn.Conv2d(width, 1, 4, 1, 0, bias=False)]
  return seeded(layers, 2)


def seeded(layers, seed):
  generator = torch.Generator().manual_seed(seed)
  net = torch.nn.Module()
  net.main = torch.nn.Sequential(*layers)
  for name, x in net.state_dict().items():
    if x.dtype.is_floating_point:
      noise = torch.randn(x.shape, generator=generator)
      x.copy_(0.5 + noise.abs() if 'running_var' in name else
              1 + 0.2 * noise if x.ndim == 1 else 0.2 * noise)
  return net


def numpy_state(net):
  # Copies: the parameters change under the running arrays otherwise.
  return {k: v.detach().numpy().copy() for k, v in net.state_dict().items()}


def nhwc(x):
  return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize('train', [False, True])
def test_generator_is_pytorchs(train):
  net, z = torch_generator(), np.random.default_rng(0).normal(size=(5, 6))
  variables = convert.generator(numpy_state(net))
  expected = net.train(train).main(
      torch.tensor(z, dtype=torch.float32)[:, :, None, None])
  module = make().nets['G']
  out, changed = state_lib.apply_net(
      module, variables['params'],
      {'batch_stats': variables['batch_stats']}, z.astype('f'), train=train)
  np.testing.assert_allclose(out, nhwc(expected), atol=2e-6)
  assert_close(changed['batch_stats'],
               convert.generator(numpy_state(net))['batch_stats'], 1e-6)


@pytest.mark.parametrize('train', [False, True])
def test_discriminator_is_pytorchs(train):
  net = torch_discriminator(levels=3)
  x = np.random.default_rng(0).uniform(-1, 1, (5, 32, 32, 3)).astype('f')
  variables = convert.discriminator(numpy_state(net))
  expected = net.train(train).main(torch.tensor(x.transpose(0, 3, 1, 2)))
  out, changed = state_lib.apply_net(
      make(32).nets['D'], variables['params'],
      {'batch_stats': variables['batch_stats']}, x, train=train)
  np.testing.assert_allclose(out, expected.detach().numpy().reshape(-1),
                             rtol=1e-5, atol=1e-5)
  assert_close(changed['batch_stats'],
               convert.discriminator(numpy_state(net))['batch_stats'], 1e-6)


def test_step_is_pytorchs():
  """Two whole steps of pytorch/examples' loop, from the same weights."""
  system = make()
  g, d = torch_generator(), torch_discriminator()
  state = initial(system)
  state = from_torch(state, g, d)
  step = jax.jit(lambda s, b: system.train_step(s, b, {}),
                 compiler_options=FAST)
  optimizers = {net: torch.optim.Adam(module.parameters(), 2e-4, (0.5, 0.999))
                for net, module in (('G', g), ('D', d))}
  bce = torch.nn.functional.binary_cross_entropy_with_logits
  for i in range(2):
    batch = batch_of(system, seed=i)
    z = jax.random.normal(rng.named(state.key, i, 'z'), (8, 6))
    state, logs = step(state, batch)

    real = torch.tensor(batch['image'][0] / np.float32(127.5) - 1
                        ).permute(0, 3, 1, 2).float()
    d.zero_grad()
    real_loss = bce(d.main(real).view(-1), torch.ones(8))
    real_loss.backward()
    fake = g.main(torch.tensor(np.array(z))[:, :, None, None])
    fake_loss = bce(d.main(fake.detach()).view(-1), torch.zeros(8))
    fake_loss.backward()
    optimizers['D'].step()
    g.zero_grad()
    g_loss = bce(d.main(fake).view(-1), torch.ones(8))
    g_loss.backward()
    optimizers['G'].step()

    np.testing.assert_allclose(logs['loss/d'], (real_loss + fake_loss).item(),
                               rtol=2e-5)
    np.testing.assert_allclose(logs['loss/g'], g_loss.item(), rtol=2e-5)
    for key, ours in (('G', convert.generator), ('D', convert.discriminator)):
      expected = ours(numpy_state({'G': g, 'D': d}[key]))
      # All statistics: G's move once, D's three times a step.
      assert_close(state.mvars[key]['batch_stats'], expected['batch_stats'],
                   1e-4)
      # Adam's first steps have the size of the rate whatever the gradient, so
      # where the gradient is all rounding, signs may differ: few elements.
      moved = jax.tree.map(lambda a, b: np.abs(a - b) > 2e-5,
                           state.params[key], expected['params'])
      flags = np.concatenate([x.ravel() for x in jax.tree.leaves(moved)])
      assert flags.mean() < 0.01


def from_torch(state, g, d):
  nets = {'G': convert.generator(numpy_state(g)),
          'D': convert.discriminator(numpy_state(d))}
  return state.replace(
      params={k: v['params'] for k, v in nets.items()},
      mvars={k: {'batch_stats': v['batch_stats']} for k, v in nets.items()})


# --- The games --------------------------------------------------------------


def run(system, steps=1):
  state = initial(system)
  traces = []

  def train_step(state, batch):
    traces.append(1)
    return system.train_step(state, batch, {})

  step = jax.jit(train_step, compiler_options=FAST)
  for i in range(steps):
    state, logs = step(state, batch_of(system, seed=i))
  chex.assert_tree_all_finite(logs)
  assert len(traces) == 1
  return state, logs


@pytest.mark.slow
def test_schedules_differ_in_what_the_generator_meets():
  losses = {}
  for name in dcgan.SCHEDULES:
    for lr in (0.0, 0.1):
      system = make(**{'loss.schedule': name, 'optimizer.D.lr': lr})
      losses[name, lr] = float(run(system)[1]['loss/g'])
  # A discriminator that stands still is the same before and after.
  assert losses['torch', 0.0] == pytest.approx(losses['pytorch', 0.0], 1e-5)
  assert losses['torch', 0.1] == pytest.approx(losses['torch', 0.0], 1e-5)
  assert losses['pytorch', 0.1] != pytest.approx(losses['torch', 0.1], 1e-2)
  # Other fakes, hence another loss.
  assert losses['paper', 0.0] != pytest.approx(losses['pytorch', 0.0], 1e-4)


def test_weight_decay_is_part_of_the_gradient():
  plain, _ = run(make(), 1)
  decayed, _ = run(make(**{'loss.l2': 0.5}), 1)
  start = initial(make())

  def first_moment(state):
    found = []
    jax.tree.map(lambda x: found.append(x.mu) if hasattr(x, 'mu') else None,
                 state.opt['D'], is_leaf=lambda x: hasattr(x, 'mu'))
    return found[0]

  # mu = (1 - b1) (gradient + l2 theta), b1 = 0.5.
  expected = jax.tree.map(lambda m, p: m + 0.5 * 0.5 * p, first_moment(plain),
                          {'D': start.params['D']})
  assert_close(first_moment(decayed), expected, 1e-5)


@pytest.mark.parametrize('penalty, objective, form', [
    ('r1', 'relativistic', 'grad'), ('dragan', 'non_saturating', 'jvp'),
    ('wgan_lp', 'hinge', 'grad'), ('r2', 'least_squares', 'grad'),
    ('zero_centred', 'minimax', 'grad'), ('wgan_gp', 'wasserstein', 'jvp')])
def test_every_penalty_goes_with_every_objective(penalty, objective, form):
  system = make(**{'loss.penalty': penalty, 'loss.objective': objective,
                   'loss.penalty_form': form, 'model.variant': 'paper'})
  _, logs = run(system)
  # One-sided: nothing to pay while the critic is as flat as at the start.
  assert (logs[f'penalty/{penalty}'] > 0) == (penalty != 'wgan_lp')


@pytest.mark.slow
def test_lazy_penalty():
  system = make(**{'loss.penalty': 'r1', 'loss.penalty_every': 2})
  _, first = run(system, 1)
  _, second = run(system, 2)
  assert first['penalty/r1'] > 0
  assert second['penalty/r1'] == 0
  _, every = run(make(**{'loss.penalty': 'r1'}), 1)
  np.testing.assert_allclose(first['penalty/r1'], 2 * every['penalty/r1'],
                             rtol=1e-5)


def test_generator_of_average():
  state, _ = run(make(**{'ema.decay': 0.5}), 1)
  start = initial(make())
  expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, start.params['G'],
                          state.params['G'])
  assert_close(state.ema['G']['params'], expected, 1e-5)
  # The paper's: the weights themselves.
  state, _ = run(make(), 1)
  assert_close(state.ema['G'], state_lib.variables(state)['G'], 1e-7)


# --- Sampling ---------------------------------------------------------------


def test_images_depend_on_their_keys_alone():
  system = make()
  state, _ = run(system)
  variables = state_lib.variables(state)
  keys = rng.from_seeds(np.arange(5))
  images = system.generate(variables, keys)
  assert images.shape == (5, 16, 16, 3)
  assert images.dtype == jnp.float32 and np.abs(images).max() <= 1
  one = system.generate(variables, keys[3:4])
  np.testing.assert_allclose(images[3:4], one, atol=1e-6)
  given = system.generate(variables, keys, {'z': system.latents(keys)})
  np.testing.assert_array_equal(images, given)
  # By batch statistics they do meet.
  images, _ = system.generate_by_batch(variables, keys)
  one, _ = system.generate_by_batch(variables, keys[3:])
  assert np.abs(images[3] - one[0]).max() > 1e-3


def test_uniform_latents():
  z = make(**{'model.z_distribution': 'uniform'}).latents(
      rng.from_seeds(np.arange(500)))
  assert -1 <= z.min() < -0.99 and 0.99 < z.max() < 1


# --- The program ------------------------------------------------------------


@pytest.fixture(scope='module')
def programs():
  """{devices: (compiled step, state, batch)} of one global batch of 32."""
  system = make(32)
  batch = batch_of(system, 32)
  return {n: compiled_on(n, system, batch) for n in (1, 8)}


@pytest.mark.slow
def test_eight_devices_train_as_one(programs):
  results = {n: program(state, batch)
             for n, (program, state, batch) in programs.items()}
  assert_close(results[8][1], results[1][1], 1e-5)
  # Adam's first moment is half the gradient.
  assert_close(results[8][0].opt, results[1][0].opt, 1e-5)


@pytest.mark.slow
def test_no_convolution_is_reversed(programs):
  for program, *_ in programs.values():
    assert hlo.reversed_convolutions(program) == 0


@pytest.mark.slow
def test_each_device_computes_its_share(programs):
  one, eight = (programs[n][0].cost_analysis()['flops'] for n in (1, 8))
  assert eight * 8 == pytest.approx(one, rel=0.05)


@pytest.mark.slow
def test_collectives(programs):
  program, state, _ = programs[8]
  found = hlo.collectives(program)
  assert list(found) == ['all-reduce']
  count, size = found['all-reduce']
  # Batch norm: G has 3 layers and runs once, D has 2 and runs on real
  # images, on fakes, and on fakes for G; each run has one all-reduce a layer
  # forward and one backward. Then one for the gradient of each player.
  layers = 3 + 3 * 2
  assert count <= 2 * layers + 2
  # D's gradient travels twice, once for each of its two batches.
  params = (state_lib.count(state.params['G'])
            + 2 * state_lib.count(state.params['D']))
  statistics = 4 * (16 + 8 + 4) + 3 * 4 * (8 + 16)
  assert size <= 4 * (params + statistics + 20)


def test_bfloat16_convolutions():
  system = make(dtype='bfloat16')
  state = jax.eval_shape(system.init, jax.random.key(0))
  jaxpr = jax.make_jaxpr(lambda s, b: system.train_step(s, b, {}))(
      state, batch_of(system))
  dtypes = {str(t) for pair in hlo.conv_operand_dtypes(jaxpr) for t in pair}
  assert dtypes == {'bfloat16'}
  assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {'float32'}


@pytest.mark.parametrize('values, words', [
    ({'model.variant': 'papr'}, ['model.variant', "'paper'"]),
    ({'loss.schedule': 'x'}, ['loss.schedule', 'pytorch']),
    ({'loss.objective': 'hing'}, ['hinge']),
    ({'loss.penalty': 'r3'}, ['loss.penalty', 'r1']),
    ({'loss.penalty_every': 0}, ['loss.penalty_every']),
    ({'model.ngf': 0}, ['model.ngf']),
    ({'model.bn_scope': 'group'}, ['model.bn_scope', 'group:K']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**values)
  for word in words:
    assert word in str(error.value)


def test_odd_resolution_is_refused():
  with pytest.raises(errors.UserError, match='data.resolution'):
    make(28)
