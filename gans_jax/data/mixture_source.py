"""`mixture:NAME`: a fixed sample of a toy distribution of mixtures.py.

Example: `point` float32 [2], and `label`, the mode, unless labels='none'.
"""

import numpy as np

from gans_jax.core import errors
from gans_jax.data import mixtures
from gans_jax.data import spec as spec_lib

NUM_EXAMPLES = 100_000  # fixed points, as VEEGAN and PacGAN train on
SPLITS = {'train': 0, 'val': 1, 'test': 2}


class Source:
  """Points in memory."""

  def __init__(self, arrays: dict[str, np.ndarray], spec: spec_lib.DataSpec):
    self._arrays = arrays
    self.spec = spec

  def __len__(self) -> int:
    return self.spec.num_examples

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {key: array[index] for key, array in self._arrays.items()}

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns several examples, stacked."""
    return {key: array[indices] for key, array in self._arrays.items()}

  def __repr__(self) -> str:
    return f'mixture_source.Source({self.spec.identity})'


def create_source(data_config, split: str) -> Source:
  """Opens `mixture:NAME`.

  Args:
    data_config: reads `source`, `labels` ('none' or 'class', the mode),
      `num_examples` (0 is 100,000) and `seed`.
    split: 'train', 'val' and 'test' are independent draws.

  Raises:
    UserError: an unknown name, label kind or split, a bad count.
  """
  if split not in SPLITS:
    raise errors.UserError(
        f'data.split is {split!r}; mixtures have {", ".join(SPLITS)}.')
  kind = data_config.get('labels', 'none')
  if kind not in ('none', 'class'):
    raise errors.UserError(
        f'data.labels is {kind!r}; mixtures have none and class (the mode).')
  name = data_config.get('source').partition(':')[2]
  distribution = mixtures.get(name)
  count = data_config.get('num_examples', 0) or NUM_EXAMPLES
  seed = data_config.get('seed', 0)
  if count < 0 or seed < 0:
    raise errors.UserError(
        f'data.num_examples is {count} and data.seed {seed}; expected 0 or '
        'more.')
  # One draw for all: a generator per point costs more than a train step.
  rng = np.random.Generator(
      np.random.Philox(key=np.array([seed, SPLITS[split]], np.uint64)))
  points, labels = distribution.host_sample(rng, count)
  arrays = {'point': points}
  classes = 0
  if kind == 'class':
    classes = (len(distribution.modes)
               if isinstance(distribution, mixtures.Mixture) else 1)
    arrays['label'] = labels.astype(np.int32)
  spec = spec_lib.DataSpec(
      resolution=0, channels=0, num_classes=classes, num_examples=count,
      keys=tuple(arrays),
      shapes=tuple((key, array.shape[1:], array.dtype.name)
                   for key, array in arrays.items()),
      class_names=tuple(str(i) for i in range(classes)),
      identity=spec_lib.identity_hash(
          {'mixture': name, 'seed': seed, 'split': split, 'count': count,
           'labels': kind}))
  return Source(arrays, spec)
