"""Perceptual distances as losses, by networks that do not train.

  lpips_vgg   LPIPS on VGG16 (Zhang et al. 2018, arXiv:1801.03924, version
              0.1), what VQGAN and its successors train with. Its weights are
              fetched by the user (`convert/published.py`).
  lite0       EffLP (metrics/efflp.py), on EfficientNet-Lite0, whose weights
              are installed with the package: nothing to fetch.

Values of the two do not compare, and neither do runs: logs name the distance.
'auto' takes the first where its weights are.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from gans_jax.convert import lpips as lpips_weights
from gans_jax.convert import published
from gans_jax.core import errors
from gans_jax.core import mesh
from gans_jax.metrics import efficientnet_lite
from gans_jax.metrics import efflp
from gans_jax.metrics import lpips
from gans_jax.metrics import vgg

NAMES = ('lpips_vgg', 'lite0')
CHOICES = ('auto', *NAMES, 'none')



@dataclasses.dataclass(frozen=True)
class Perceptual:
  """A perceptual distance.

  Attributes:
    name: one of `NAMES`.
    load: () -> its weights, NumPy float32. Raises UserError where they are
      not on this machine.
    distance: (weights, x, target) -> float32 [N]; see `choose`.
  """

  name: str
  load: Callable[[], Any]
  distance: Callable[[Any, jax.Array, jax.Array], jax.Array]


def choose(choice: str) -> Perceptual | None:
  """Returns a distance, or None for 'none'.

  `distance` takes images [N, H, W, 3 or 1] in [-1, 1] (grey ones are
  repeated) and is differentiated by its second argument alone: the features
  of the target are constants.

  Args:
    choice: one of `CHOICES`.

  Raises:
    UserError: another name. Weights that are not on this machine are an error
      of `load` alone: a trained system samples without them.
  """
  if choice == 'none':
    return None
  if choice not in CHOICES:
    raise errors.UserError(
        f'The perceptual distance {choice!r} is not known; expected one of: '
        f'{", ".join(CHOICES)}.')
  if choice == 'auto':
    choice = 'lpips_vgg' if _has_lpips() else 'lite0'
  if choice == 'lpips_vgg':
    return Perceptual(
        choice, lambda: lpips_weights.load_lpips('vgg').variables, lpips_vgg)
  return Perceptual(choice, efficientnet_lite.load_variables, lite0)


def _has_lpips() -> bool:
  try:
    for file in (lpips_weights.TRUNKS['vgg'], lpips_weights.HEADS['vgg']):
      published.find(file)
  except errors.UserError:
    return False
  return True


def constants(distance: Perceptual | None) -> dict[str, Any]:
  """Returns {'perceptual': weights} for `System.loss_constants`; {} of None.

  Raises:
    UserError: the weights are not on this machine.
  """
  return {} if distance is None else {'perceptual': distance.load()}


def value(distance: Perceptual, weights: Mapping[str, Any], x: jax.Array,
          target: jax.Array) -> jax.Array:
  """Returns the mean distance of pairs, float32 scalar.

  Args:
    distance: the distance.
    weights: what `constants` gave.
    x: images, see `choose`.
    target: images.
  """
  return jnp.mean(distance.distance(weights['perceptual'], x, target))


def lpips_vgg(variables, x: jax.Array, target: jax.Array) -> jax.Array:
  """LPIPS on VGG16: [N]. As `lpips.LPIPS`, see `choose`.

  Args:
    variables: of `lpips.LPIPS('vgg')`.
    x: images.
    target: images.
  """
  params = variables['params']
  mean, std = (jnp.array(v)[None, None, None] for v in (vgg.MEAN, vgg.STD))

  def taps(images):
    images = ((rgb(images) + 1.0) / 2.0 - mean) / std
    found = vgg.Trunk().apply({'params': params['trunk']}, images)
    return [lpips.unit(tap) for tap in found]

  total = 0.0
  for i, (a, b) in enumerate(zip(taps(x), taps(lax.stop_gradient(target)),
                                 strict=True)):
    weights = params[f'head_{i}'][None, None, None]
    total = total + jnp.mean(jnp.sum(jnp.square(a - b) * weights, -1), (1, 2))
  return total


def lite0(variables, x: jax.Array, target: jax.Array) -> jax.Array:
  """EffLP: [N]. As `efflp.distance`, see `choose`.

  Args:
    variables: of `efficientnet_lite.EfficientNetLite0`.
    x: images.
    target: images.
  """
  # On CPU XLA has no good depthwise convolution.
  form = 'shifted' if mesh.platform() == 'cpu' else 'lax'
  net = efficientnet_lite.EfficientNetLite0(form)

  def taps(images):
    found = net.apply(variables, 127.5 * (rgb(images) + 1.0))
    return [_normalize(found[name]) for name in efflp.TAPS]

  pairs = zip(taps(x), taps(lax.stop_gradient(target)), strict=True)
  return functools.reduce(jnp.add, (
      jnp.mean(jnp.sum(jnp.square(a - b), -1), (1, 2)) for a, b in pairs
  )) / len(efflp.TAPS)


def _normalize(tap: jax.Array) -> jax.Array:
  total = jnp.sum(jnp.square(tap), -1, keepdims=True)
  return tap * lax.rsqrt(total + efflp.EPSILON)


def rgb(x: jax.Array) -> jax.Array:
  """Repeats the channel of grey images [N, H, W, 1]; float32."""
  x = x.astype(jnp.float32)
  return jnp.repeat(x, 3, -1) if x.shape[-1] == 1 else x
