"""What a run has to be better than: `python -m gans_jax.evaluate --baseline`.

  pca[:BITS]         of a tokenizer: its images coded by their principal
                     components, in as many bits as its codes take:
                     floor(codes of an image * log2 K / BITS) numbers of BITS
                     bits each (8 by default; metrics/principal_code.py)
  independent_codes  of a prior: images of codes that know nothing of each
                     other. Each is the code, at its place, of an image of the
                     data that is drawn anew for every place; of a class, where
                     the prior has classes

A baseline takes the place of the system in `evaluator.Evaluator`.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import errors
from gans_jax.core import images as images_lib
from gans_jax.core import tokenizer
from gans_jax.metrics import principal_code

RESULTS = 'baselines.jsonl'
PCA, INDEPENDENT_CODES = 'pca', 'independent_codes'
BITS = 8
# Images that a baseline is made from, at most, and bytes of them.
MOST = 50_000
MOST_BYTES = 2**29


@dataclasses.dataclass(frozen=True, eq=False)
class Baseline:
  """A baseline.

  Attributes:
    system: the members of core/system.py that evaluation needs.
    variables: its variables.
    facts: what results record of it; 'name' and more.
  """

  system: Any
  variables: Mapping[str, Any]
  facts: Mapping[str, Any]


def create(name: str, config, system, variables, dataset) -> Baseline:
  """Makes the baseline that `--baseline` names.

  Args:
    name: see the module.
    config: the run's.
    system: the run's.
    variables: of the run, with what its `frozen` gave.
    dataset: what it was trained on.

  Raises:
    UserError: no such baseline, or not one of this system.
  """
  kind, colon, text = name.partition(':')
  if kind == INDEPENDENT_CODES and not colon:
    return _independent_codes(config, system, variables, dataset)
  bits = int(text) if text.isdigit() else 0 if colon else BITS
  if kind != PCA or not 1 <= bits <= 16:
    raise errors.UserError(
        f'--baseline is {name!r}, expected {PCA}, {PCA}:BITS with 1 to 16 bits '
        f'for each number, or {INDEPENDENT_CODES}.')
  return _pca(system, variables, dataset, bits)


def _some(dataset, bytes_each: int) -> np.ndarray:
  """Returns the indices of the images that a baseline is made from."""
  number = min(len(dataset), MOST, max(2, MOST_BYTES // bytes_each))
  return np.sort(np.random.default_rng(0).permutation(len(dataset))[:number])


@dataclasses.dataclass(frozen=True, eq=False)
class _Reconstructing:
  """Images through a `principal_code.Code`, in `variables['code']`."""

  requires = ('image',)
  conditions = ()
  options = ()

  @property
  def outputs(self):
    return {'reconstruct': self._reconstruct}

  def _reconstruct(self, variables, batch, keys=None) -> jax.Array:
    del keys
    return images_lib.to_unit(principal_code.coded(
        variables['code'], batch['image']))


def _pca(system, variables, dataset, bits: int) -> Baseline:
  if not {'tokens', 'reconstruct'} <= set(system.outputs):
    raise errors.UserError(
        f'--baseline={PCA} is held against the reconstructions of a '
        "tokenizer, and this system is none. Of a prior ask for "
        f'--baseline={INDEPENDENT_CODES}.')
  spec = dataset.spec
  batch = {key: jnp.zeros((1, *shape), dtype)
           for key, shape, dtype in spec.shapes if key in system.requires}
  shape = jax.eval_shape(system.outputs['tokens'], variables, batch,
                         jax.random.split(jax.random.key(0), 1)).shape
  room = math.prod(shape) * math.log2(system.codebook_size)
  chosen = _some(dataset, spec.resolution**2 * spec.channels)
  code = principal_code.fit(
      dataset.take(chosen, ('image',))['image'], int(room / bits), bits)
  return Baseline(_Reconstructing(), {'code': code}, {
      'name': f'{PCA}:{bits}', 'numbers': len(code.low), 'bits': room,
      'fitted_to': len(chosen), 'explained': code.explained})


@dataclasses.dataclass(frozen=True, eq=False)
class _Independent:
  """Codes drawn one by one, decoded by the tokenizer of a prior.

  Attributes:
    config: the prior's.
    conditions: the prior's, 'label' or none.
  """

  config: Any
  conditions: tuple[str, ...]

  requires = ('tokens',)
  options = ()
  outputs = {}

  def tokens(self, variables, keys: jax.Array, conditions=None) -> jax.Array:
    """Draws int32 [N, h, w].

    Args:
      variables: with 'codes': `tokens` [M, h, w], sorted by class, and
        `first` [classes + 1], where each class begins.
      keys: [N].
      conditions: 'label' [N] where there are classes.
    """
    codes, first = (jnp.asarray(variables['codes'][name])
                    for name in ('tokens', 'first'))
    label = (conditions or {}).get('label')
    if label is None:
      label = jnp.zeros(keys.shape, jnp.int32)
    count, *grid = codes.shape
    flat = codes.reshape(count, -1)

    def one(key, label):
      low, high = first[label], first[label + 1]
      rows = jax.random.randint(key, flat.shape[1:], low, high)
      return jnp.take_along_axis(flat, rows[None], 0)[0]

    return jax.vmap(one)(keys, label).astype(jnp.int32).reshape(-1, *grid)

  def generate(self, variables, keys: jax.Array, conditions=None
               ) -> jax.Array:
    """Draws codes and decodes them; see core/system.py."""
    return tokenizer.decode(
        self.config, variables, self.tokens(variables, keys, conditions), keys)


def _independent_codes(config, system, variables, dataset) -> Baseline:
  if 'tokens' not in system.requires or 'cond_tokens' in system.requires:
    raise errors.UserError(
        f'--baseline={INDEPENDENT_CODES} is held against the samples of a '
        'prior over the codes of a tokenizer, and this system is none. Of a '
        f'tokenizer ask for --baseline={PCA}.')
  conditions = tuple(name for name in system.conditions if name == 'label')
  shape = {key: shape for key, shape, _ in dataset.spec.shapes}['tokens']
  chosen = _some(dataset, 4 * math.prod(shape))
  found = dataset.take(chosen, ('tokens', *conditions))
  label = found.get('label', np.zeros(len(chosen), np.int32))
  classes = dataset.spec.num_classes if conditions else 1
  order = np.argsort(label, kind='stable')
  first = np.searchsorted(label[order], np.arange(classes + 1))
  empty = np.flatnonzero(first[1:] == first[:-1])
  if len(empty):
    raise errors.UserError(
        f'--baseline={INDEPENDENT_CODES} draws codes of images of every class, '
        f'but there are none of class {empty[0]} among the '
        f'{len(chosen)} that it looks at.')
  codes = {'tokens': found['tokens'][order], 'first': first.astype(np.int32)}
  return Baseline(
      _Independent(config, conditions),
      {'tokenizer': variables['tokenizer'], 'codes': codes},
      {'name': INDEPENDENT_CODES, 'by_class': bool(conditions),
       'images': len(chosen)})
