"""StyleGAN2's training step and sampling."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import hlo
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.data import spec as spec_lib
from gans_jax.nn import w_space
from gans_jax.systems import stylegan2

FAST = {'xla_backend_optimization_level': 0}
SMALL = {'model.channel_base': 32, 'model.channel_max': 8, 'model.z_dim': 6,
         'model.w_dim': 8, 'model.mapping_layers': 1,
         'model.d_mapping_layers': 1}
BATCH = 32


def make(resolution=8, classes=0, **values):
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': BATCH, **SMALL,
                             'model.conditional': classes > 0, **values})
  keys = ('image', 'label') if classes else ('image',)
  spec = spec_lib.DataSpec(resolution, 3, classes, 100, keys)
  return stylegan2.create(config, spec)


@functools.cache
def initial(system):
  """A state of step 0 with noise at work.

  As `system.init` makes it, in NumPy: compiling that takes longer than what
  is done with the state.
  """
  generator = np.random.default_rng(0)

  def one(path, x):
    names = [entry.key for entry in path]
    if names[-1] in ('kernel', 'const', 'noise_const'):
      # Of mapping layers, N(0, 1 / 0.01^2).
      scale = 100 if 'mapping' in names and 'embed' not in names else 1
      return scale * generator.normal(size=x.shape).astype(np.float32)
    value = {'noise_strength': 0.3}.get(names[-1], float('affine' in names))
    return np.full(x.shape, value, np.float32)

  abstract = jax.eval_shape(system.init, jax.random.key(0))
  params, mvars = (jax.tree_util.tree_map_with_path(one, tree)
                   for tree in (abstract.params, abstract.mvars))
  return state_lib.create(
      jax.random.key(0),
      {net: {'params': params[net], **mvars[net]} for net in params},
      system.players, system.tx, ema=('G',),
      aux=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract.aux))


def batch_of(system, batch=BATCH, seed=0):
  generator = np.random.default_rng(seed)
  values = {'image': generator.integers(
      0, 256, (1, batch, *system.image_shape), np.uint8)}
  if system.classes:
    values['label'] = generator.integers(0, system.classes, (1, batch),
                                         np.int32)
  return values


def assert_close(a, b, tolerance):
  """Each array to `tolerance` of its largest element."""
  def one(path, x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    np.testing.assert_allclose(
        x, y, rtol=0, atol=max(tolerance * np.abs(y).max(), 1e-9),
        err_msg=jax.tree_util.keystr(path))

  jax.tree_util.tree_map_with_path(one, a, b)


def test_initial_state():
  """Averages at 0, and average weights that are copies."""
  system = make()
  state = jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))
  assert jax.tree.structure(state) == jax.tree.structure(initial(system))
  np.testing.assert_array_equal(state.mvars['G']['moving']['w_avg'], 0.0)
  for x in jax.tree.leaves(state.aux):
    assert x == 0
  noise = state.mvars['G']['noise']['b8']
  assert np.abs(noise['conv0']['noise_const']
                - noise['conv1']['noise_const']).max() > 0.1
  assert_close(state.ema['G'], {'params': state.params['G'],
                                **state.mvars['G']}, 0.0)
  assert not np.shares_memory(np.asarray(state.ema['G']['noise']['b8'][
      'conv0']['noise_const']), np.asarray(noise['conv0']['noise_const']))


# --- One step, on one device and on eight -------------------------------------

# Penalties at every second step; Adam smooth, so that rounding stays rounding.
STEP = {'loss.pl_every': 2, 'loss.r1_every': 2, 'ema.rampup': 0.05,
        'optimizer.G.eps': 1e-2, 'optimizer.D.eps': 1e-2}


@dataclasses.dataclass(frozen=True)
class Run:
  """Two steps of the conditional system: (state, logs) after each."""

  system: stylegan2.System
  program: object
  start: object
  results: list


@pytest.fixture(scope='module')
def runs_of():
  """{number of devices: Run}."""
  system, found = make(classes=3, **STEP), {}
  for devices in (1, 8):
    mesh = mesh_lib.make(data=devices, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
      start = jax.device_put(initial(system), jax.sharding.NamedSharding(
          mesh, mesh_lib.P()))
      batch = mesh_lib.to_global(batch_of(system), mesh)
      program = jax.jit(
          lambda s, b: system.train_step(s, b, {}), out_shardings=(
              mesh_lib.shardings(start, mesh), None)).lower(
                  start, batch).compile(compiler_options=FAST)
      results, state = [], start
      for _ in range(2):
        state, logs = program(state, batch)
        results.append((state, {k: float(v) for k, v in logs.items()}))
    found[devices] = Run(system, program, start, results)
  return found


LOGS = {'loss/g', 'loss/d', 'logits/real', 'logits/fake', 'signs/real',
        'signs/fake', 'penalty/r1', 'penalty/path_length',
        'path_length/length', 'path_length/mean', 'grad_norm/G',
        'grad_norm/D', 'grad_norm/G_reg', 'grad_norm/D_reg'}


@pytest.mark.slow
def test_eight_devices_train_as_one(runs_of):
  one, eight = runs_of[1], runs_of[8]
  assert set(one.results[0][1]) == LOGS
  for (_, a), (_, b) in zip(one.results, eight.results, strict=True):
    for name, value in a.items():
      assert np.isfinite(value), name
      np.testing.assert_allclose(b[name], value, rtol=1e-3, atol=1e-6,
                                 err_msg=name)
  # The moments of Adam after two steps and two penalties of each player.
  a, b = one.results[-1][0], eight.results[-1][0]
  assert_close(b.opt, a.opt, 1e-3)
  assert_close(b.mvars, a.mvars, 1e-5)


@pytest.mark.slow
def test_what_devices_tell_each_other(runs_of):
  found = hlo.collectives(runs_of[8].program)
  # No activation is moved: sums alone.
  assert set(found) == {'all-reduce'}
  assert hlo.reversed_convolutions(runs_of[8].program) == 0
  assert hlo.reversed_convolutions(runs_of[1].program) == 0


def counts(state):
  return [int(next(x.count for x in jax.tree.leaves(
      state.opt[player], is_leaf=lambda x: isinstance(
          x, optax.ScaleByAdamState)) if isinstance(
              x, optax.ScaleByAdamState))) for player in ('G', 'D')]


@pytest.mark.slow
def test_penalties_are_lazy(runs_of):
  """Updates of their own, at steps 0, 2, ...; their logs are kept."""
  (first, logs), (second, later) = runs_of[1].results
  assert counts(first) == [2, 2] and counts(second) == [3, 3]
  for name in ('penalty/r1', 'penalty/path_length', 'path_length/length',
               'path_length/mean', 'grad_norm/G_reg', 'grad_norm/D_reg'):
    assert logs[name] == later[name] > 0
  assert logs['loss/g'] != later['loss/g']
  # From 0, one hundredth of the way to the first mean.
  np.testing.assert_allclose(first.aux['pl_mean'],
                             0.01 * logs['path_length/length'], rtol=1e-5)


@pytest.mark.slow
def test_average_of_weights(runs_of):
  """Nothing of the start where no image has been seen; then half-lives."""
  run = runs_of[1]
  (first, _), (second, _) = run.results
  assert_close(first.ema['G']['params'], first.params['G'], 1e-6)
  beta = 0.5 ** (BATCH / (0.05 * BATCH))
  expected = jax.tree.map(lambda a, x: x + beta * (a - x),
                          first.params['G'], second.params['G'])
  assert_close(second.ema['G']['params'], expected, 1e-5)
  # Trap 12: what is not trained is copied.
  for state in (first, second):
    assert_close({k: v for k, v in state.ema['G'].items() if k != 'params'},
                 state.mvars['G'], 0.0)
  assert np.abs(second.mvars['G']['moving']['w_avg']).max() > 0
  assert_close(second.mvars['G']['noise'], run.start.mvars['G']['noise'], 0.0)


# --- The parts ---------------------------------------------------------------


# Without lazy penalties; without a statistic that compares examples.
PIECES = {'loss.r1_every': 1, 'loss.pl_weight': 0.0, 'model.mbstd_channels': 0,
          'optimizer.D.eps': 1e-2, 'optimizer.G.eps': 1e-2}


@pytest.mark.parametrize('whole', [
    False, pytest.param(True, marks=pytest.mark.slow)], ids=['D', 'whole'])
def test_penalty_at_every_step_and_microbatches(whole):
  """Without laziness a term of the loss; in pieces the same gradient."""
  found = []
  for microbatches in (1, 2):
    system = make(**PIECES, microbatches=microbatches)

    def step(state, batch, system=system):
      if whole:
        return system.train_step(state, batch, {})
      image = batch['image'][0].astype(jnp.float32) / 127.5 - 1
      return system._d_main(state, {'image': image})

    found.append(jax.jit(step, compiler_options=FAST)(
        initial(system), batch_of(system)))
  (one, logs), (two, pieces) = found
  assert counts(one) == counts(two) == [int(whole), 1]
  assert_close(two.opt, one.opt, 1e-4)
  assert set(logs) == {n for n in LOGS if 'path' not in n and 'reg' not in n
                       and (whole or n not in ('loss/g', 'grad_norm/G'))}
  assert logs['penalty/r1'] > 0
  for name, value in logs.items():
    np.testing.assert_allclose(pieces[name], value, rtol=1e-4, atol=1e-6,
                               err_msg=name)


def rate(tx):
  """What Adam without momentum moves a parameter by at first."""
  params = {'x': jnp.ones(3)}
  updates, _ = tx.update(params, tx.init(params), params)
  return -float(updates['x'][0])


def test_lazy_constants():
  """Appendix B: lr, beta2 for intervals of 4 and 16; also without penalty."""
  system = make(**{'loss.pl_weight': 0.0, 'loss.r1_gamma': 0.0})
  assert rate(system.tx['G']) == pytest.approx(0.0016, rel=1e-5)
  assert rate(system.tx['D']) == pytest.approx(0.00188235, rel=1e-5)
  for player, b2 in (('G', 0.99199197), ('D', 0.99058546)):
    params = {'x': jnp.ones(1)}
    tx = system.tx[player]
    _, opt = tx.update(params, tx.init(params), params)
    nu = [float(x.nu['x'][0]) for x in jax.tree.leaves(
        opt, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
          if isinstance(x, optax.ScaleByAdamState)]
    np.testing.assert_allclose(1 - nu[0], b2, rtol=1e-6)


def double(system):
  """The system computing in float64, and a state of it."""
  pyramid = dataclasses.replace(system.nets['G'].pyramid, dtype=jnp.float64,
                                low_blocks=9)
  system = dataclasses.replace(system, nets={
      name: net.clone(pyramid=pyramid) for name, net in system.nets.items()})
  return system, jax.tree.map(
      lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x,
      initial(make()))


def along(function, params, seed=1, step=1e-6):
  """(value, <gradient, direction>, the same by differences)."""
  direction = jax.tree.map(lambda x: jnp.asarray(
      np.random.default_rng(seed).normal(size=x.shape)), params)
  function = jax.jit(jax.value_and_grad(function), compiler_options=FAST)
  moved = [function(jax.tree.map(lambda x, d, s=s: x + s * d, params,
                                 direction))[0] for s in (step, -step)]
  value, gradient = function(params)
  inner = sum(jnp.sum(g * d) for g, d in zip(
      jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
  return value, inner, (moved[0] - moved[1]) / (2 * step)


FORMS = ['grad', pytest.param('jvp', marks=pytest.mark.slow)]


@pytest.mark.parametrize('form', FORMS)
def test_r1_by_finite_differences(form):
  """Value by differences over pixels, gradient over weights; float64."""
  with jax.enable_x64(True):
    system, state = double(make(**{
        'loss.r1_form': form, 'model.mbstd_group': 2}))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)))

    def penalty(params):
      return system._r1(params, {'image': x}, None, state)

    value, found, expected = along(penalty, state.params['D'])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if form == 'grad':
      total = jax.jit(lambda x: jnp.sum(system.nets['D'].apply(
          {'params': state.params['D']}, x)), compiler_options=FAST)
      slopes = []
      for move in 1e-5 * np.eye(x.size).reshape(-1, *x.shape):
        slopes.append((total(x + move) - total(x - move)) / 2e-5)
      expected = 10 / 2 * np.sum(np.square(slopes)) / 2
      np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize('form', FORMS)
def test_path_length_by_finite_differences(form):
  """Value by differences over w, gradient over all weights of G; float64."""
  with jax.enable_x64(True):
    system, state = double(make(**{'loss.pl_form': form}))
    generator = np.random.default_rng(0)
    inputs = {name: jnp.asarray(generator.normal(size=(3, size)))
              for name, size in (('z', 6), ('z_mixed', 6),
                                 ('noise', system.noise_size),
                                 ('further', 8 * 8 * 3))}
    aux = {'pl_mean': jnp.asarray(0.2)}
    mvars = state.mvars['G']

    def penalty(params):
      return system._path_length(params, mvars, inputs, 2, aux)[0]

    params = state.params['G']
    value, found, expected = along(penalty, params)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if form == 'grad':
      ws, _ = system._styles(params, mvars, inputs, 2)
      image = jax.jit(lambda ws: system.nets['G'].apply(
          {'params': params, **mvars}, ws, inputs['noise'],
          method='synthesize'), compiler_options=FAST)
      y = inputs['further'].reshape(3, 8, 8, 3) / 8.0
      slopes = np.zeros(ws.shape)
      for layer, channel in np.ndindex(*ws.shape[1:]):
        move = np.zeros(ws.shape)
        move[:, layer, channel] = 1e-5
        slopes[:, layer, channel] = np.sum(
            (image(ws + move) - image(ws - move)) * y / 2e-5, (1, 2, 3))
      lengths = np.sqrt(np.mean(np.sum(slopes**2, 2), 1))
      average = 0.2 + 0.01 * (lengths.mean() - 0.2)
      np.testing.assert_allclose(
          value, 2 * np.mean((lengths - average)**2), rtol=1e-6)


def test_style_mixing():
  """Trap 5: one cutoff for a batch, 1 to num_ws - 1, with probability 0.9."""
  system = make(16)
  state = initial(system)
  real = {'image': jnp.zeros((4, 1))}
  cutoffs = jax.jit(jax.vmap(lambda i: system._draw(
      state.replace(step=i), 'g', real, 2)[1]), compiler_options=FAST)(
          jnp.arange(4000))
  shares = np.bincount(cutoffs, minlength=7) / 4000
  np.testing.assert_allclose(shares, [0, *[0.9 / 5] * 5, 0.1], atol=0.02)
  inputs, _ = system._draw(state, 'g', real, 4)
  params, mvars = state.params['G'], state.mvars['G']
  ws, changed = system._styles(params, mvars, inputs, 2)
  first, second = (system.map_latents(
      {'G': {'params': params, **mvars}}, inputs[name])
                   for name in ('z', 'z_mixed'))
  for layer in range(6):
    np.testing.assert_allclose(ws[:, layer], first if layer < 2 else second,
                               rtol=1e-6)
  # The average w is of the first latents.
  np.testing.assert_allclose(changed['moving']['w_avg'],
                             0.005 * jnp.mean(first, 0), rtol=1e-4, atol=1e-8)
  plain = make(**{'loss.style_mixing': 0.0})
  inputs, cutoff = plain._draw(state, 'g', real, 4)
  assert cutoff is None and inputs['z_mixed'].shape == (4, 0)


# --- Sampling ----------------------------------------------------------------


@pytest.fixture(scope='module')
def sampling():
  """(system, variables, jitted generate)."""
  system = make(classes=3)
  variables = state_lib.variables(initial(system))
  variables['G']['moving'] = {'w_avg': jnp.full((8,), 0.3)}
  return system, variables, jax.jit(
      system.generate, compiler_options=FAST, static_argnames=(
          'truncation', 'truncation_cutoff', 'noise'))


def test_images_depend_on_their_keys_alone(sampling):
  """Noise and labels too."""
  system, variables, generate = sampling
  keys = rng.from_seeds(np.arange(4))
  found = generate(variables, keys)
  assert found.shape == (4, 8, 8, 3) and found.dtype == jnp.float32
  # The first with others beside it.
  again = generate(variables, keys[jnp.asarray([2, 0, 0, 3])])
  np.testing.assert_allclose(again, found[jnp.asarray([2, 0, 0, 3])],
                             atol=1e-5)
  assert np.abs(found[0] - found[1]).max() > 0.1


def test_options_of_sampling(sampling):
  system, variables, generate = sampling
  keys, layers = rng.from_seeds(np.arange(2)), jnp.arange(4).reshape(1, 4, 1)
  label = {'label': jnp.asarray([1, 2])}
  z = system.latents(keys)
  assert z.shape == (2, 6)
  w = system.map_latents(variables, z, label)
  pulled = 0.3 + 0.5 * (w - 0.3)

  def of_ws(ws):
    """Without noise, from layers of w: independent of the keys."""
    return generate(variables, rng.from_seeds([7, 8]),
                    {**label, 'w': w_space.broadcast(ws, 4)}, noise='none')

  images = {noise: generate(variables, keys, label, noise=noise)
            for noise in ('random', 'const', 'none')}
  # Three kinds of noise, three images; z and w in place of the keys'.
  assert len({np.asarray(x).tobytes() for x in images.values()}) == 3
  np.testing.assert_allclose(of_ws(w), images['none'], atol=1e-5)
  np.testing.assert_allclose(
      generate(variables, rng.from_seeds([7, 8]), {**label, 'z': z},
               noise='none'), images['none'], atol=1e-5)
  assert np.abs(of_ws(pulled) - images['none']).max() > 0.01
  # psi: w_avg + psi (w - w_avg), in the first layers alone with a cutoff.
  np.testing.assert_allclose(
      generate(variables, keys, {**label, 'w': w}, noise='none',
               truncation=0.5), of_ws(pulled), atol=1e-5)
  np.testing.assert_allclose(
      generate(variables, keys, label, noise='none', truncation=0.5,
               truncation_cutoff=2),
      of_ws(jnp.where(layers < 2, pulled[:, None], w[:, None])), atol=1e-5)
  with pytest.raises(errors.UserError, match='constant'):
    system.generate(variables, keys, label, noise='constant')


def test_labels_of_keys(sampling):
  """Without labels they are drawn, each from its key."""
  system, variables, generate = sampling
  keys = rng.from_seeds(np.arange(6))
  found = generate(variables, keys, noise='none')
  labelled = [generate(variables, keys, {'label': jnp.full((6,), k)},
                       noise='none') for k in range(3)]
  matches = np.asarray([[np.allclose(x[i], found[i], atol=1e-5)
                         for x in labelled] for i in range(6)])
  assert (matches.sum(1) == 1).all() and len(set(matches.argmax(1))) > 1


# --- Configs -----------------------------------------------------------------


def test_shape_of_the_data_that_is_not_square():
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {'total_steps': 1, **SMALL})
  spec = spec_lib.DataSpec(16, 3, 0, 100, ('image',),
                           (('image', (16, 8, 3), 'uint8'),))
  system = stylegan2.create(config, spec)
  state = jax.eval_shape(system.init, jax.random.key(0))
  images = jax.eval_shape(system.generate, state_lib.variables(state),
                          jax.eval_shape(lambda: rng.from_seeds([1, 2])))
  assert images.shape == (2, 16, 8, 3)
  after, _ = jax.eval_shape(lambda s, b: system.train_step(s, b, {}), state,
                            batch_of(system))
  assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(
      jnp.shape, state.params)


def test_table_2_has_nine_rows():
  assert list(stylegan2.TABLE_2) == [
      f'{g}_{d}' for g in ('orig', 'skip', 'resnet')
      for d in ('orig', 'skip', 'resnet')]
  for row in stylegan2.TABLE_2.values():
    system = make(**{**row, **SMALL})
    assert system.nets['G'].architecture == row['model.G']
    assert system.nets['D'].architecture == row['model.D']


@pytest.mark.parametrize('values, words', [
    ({'model.G': 'residual'}, ['model.G', 'resnet']),
    ({'model.mbstd_order': 'random'}, ['mbstd_order', 'strided']),
    ({'loss.pl_form': 'vjp'}, ['loss.pl_form', 'jvp']),
    ({'loss.r1_every': 0}, ['loss.r1_every', 'above 0']),
    ({'loss.r1_gamma': -1.0}, ['loss.r1_gamma', '0 or more']),
    ({'loss.style_mixing': 1.5}, ['style_mixing', '0 to 1']),
    ({'model.channel_base': 4}, ['channel_base', 'no channel']),
    ({'model.mbstd_group': 3}, ['mbstd_group', 'divisor']),
    ({'model.mbstd_channels': 3}, ['mbstd_channels', 'channels']),
    ({'batch_size': 9, 'model.mbstd_group': 9}, ['pl_batch_shrink']),
    ({'model.conditional': True}, ['data.labels']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**values)
  for word in words:
    assert word in str(error.value)


@pytest.mark.parametrize('resolution', [28, 4, 0])
def test_bad_resolutions_are_refused(resolution):
  with pytest.raises(errors.UserError, match='powers of two'):
    make(resolution)


def test_penalty_that_does_not_split_over_the_devices_is_refused():
  system = make(**{'batch_size': 8})
  state = jax.eval_shape(system.init, jax.random.key(0))
  with jax.set_mesh(mesh_lib.make(data=8)), pytest.raises(
      errors.UserError, match='pl_batch_shrink=1'):
    jax.eval_shape(lambda s, b: system.train_step(s, b, {}), state,
                   batch_of(system, 8))
