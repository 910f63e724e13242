"""Perceptual path length by name: `ppl50k_wend`, `ppl2k_zfull_lite0`.

  pplN_{z|w}{full|end}      LPIPS with VGG16, centre crop: StyleGAN's
  ppl2_N_{z|w}{full|end}    without the crop: StyleGAN2's
  ..._lite0                 the same with EffLP, which needs no network

Paths in Z are of the norm that Gaussian latents have, which StyleGAN's mapping
network normalizes away. The arithmetic is in path_length.py.
"""

from collections.abc import Callable
import dataclasses
import re
import time
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from gans_jax.core import errors
from gans_jax.core import rng
from gans_jax.metrics import efficientnet_lite
from gans_jax.metrics import efflp
from gans_jax.metrics import features
from gans_jax.metrics import image_count
from gans_jax.metrics import path_length

_NAME = re.compile(
    r'(ppl2_|ppl)([0-9]+)(k?)_(z|w)(full|end)(_lite0)?')


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What a name says.

  Attributes:
    name: canonical spelling.
    num: pairs of images.
    space: 'z' or 'w'.
    full: t is uniform in [0, 1); else 0.
    crop: to the middle, where faces are.
    network: 'lpips_vgg' or 'lite0'.
  """

  name: str
  num: int
  space: str
  full: bool
  crop: bool
  network: str


def parse(name: str, num: int = 0) -> Protocol | None:
  """Returns the protocol of a name; None if it is another metric's.

  Args:
    name: as at the head of this file.
    num: replaces the number in the name, if positive.
  """
  match = _NAME.fullmatch(name)
  if match is None:
    return None
  kind, digits, kilo, space, where, lite = match.groups()
  count = image_count.read(digits, kilo, num)
  if count < 1:
    raise errors.UserError(f'The metric {name!r} asks for no image.')
  size = image_count.write(count)
  return Protocol(
      f'{kind}{size}_{space}{where}{lite or ""}', count, space,
      where == 'full', kind == 'ppl', 'lite0' if lite else 'lpips_vgg')


# Batches of float32 images [n, H, W, 3] in [-1, 1], of latents of the space
# [n, ...] and typed keys [n], which decide labels and noise.
Generate = Callable[[jax.Array, jax.Array], jax.Array]


def compute(protocol: Protocol, generate: Generate,
            latents: Callable[[jax.Array], jax.Array], *, seed: int,
            batch_size: int, weights: str | None = None,
            progress: features.Progress | None = None) -> dict[str, Any]:
  """Returns the result, all but the facts of the generator.

  Args:
    protocol: the metric.
    generate: images of latents; called twice with the same keys.
    latents: keys -> latents of the protocol's space.
    seed: of latents, of t and of the keys.
    batch_size: pairs at a time.
    weights: file of LPIPS's trunk, where it is not found by itself.
    progress: called after every batch.
  """
  distance, facts = _distance(protocol, weights)
  path = _great_circle if protocol.space == 'z' else path_length.lerp
  start = time.perf_counter()
  count = -(-protocol.num // batch_size) * batch_size
  all_keys = rng.per_example(jax.random.key(seed), 0, count)
  values: list[np.ndarray] = []
  done = 0
  while done < protocol.num:
    keys = all_keys[np.arange(done, done + batch_size)]
    ends = [latents(jax.vmap(lambda k, n=name: rng.named(k, 0, n))(keys))
            for name in ('ppl_from', 'ppl_to')]
    t = jax.vmap(lambda k: jax.random.uniform(rng.named(k, 0, 'ppl_t')))(keys)
    found = path_length.lengths(
        lambda z, k=keys: generate(z, k), distance, path, *ends,
        t * protocol.full)
    values.append(np.asarray(found)[:protocol.num - done])
    done = min(done + batch_size, protocol.num)
    if progress:
      rate = done / (time.perf_counter() - start)
      progress(done, protocol.num, rate, (protocol.num - done) / rate)
  value = path_length.trimmed_mean(np.concatenate(values))
  return {
      'metric': protocol.name,
      'value': value,
      'values': {'ppl': value},
      'measure': 'perceptual path length, eps 1e-4, between the 1st and the '
                 '99th percentile',
      'path': {'space': protocol.space, 'crop': protocol.crop,
               't': 'uniform' if protocol.full else 'end'},
      'features': facts,
      'seconds': {'fake': round(time.perf_counter() - start, 3)},
  }


def _great_circle(a, b, t):
  return path_length.slerp(a, b, t) * a.shape[-1]**0.5


def _distance(protocol: Protocol, weights: str | None):
  """Returns (function of two batches of images in [-1, 1], its facts)."""
  form = 'shifted' if jax.default_backend() == 'cpu' else 'lax'
  if protocol.network == 'lite0':
    variables = efficientnet_lite.load_variables()
    facts = {'name': 'efflp', 'quantisation': 'none',
             'weights_sha256': efficientnet_lite.WEIGHTS_SHA256}

    def apply(variables, x, y):
      return efflp.distance(variables, x, y, form)
  else:
    from gans_jax.convert import lpips as convert_lpips
    from gans_jax.metrics import lpips

    loaded = convert_lpips.load_lpips('vgg', weights)
    variables = loaded.variables
    facts = {'name': 'lpips_vgg', 'quantisation': 'none',
             'weights_sha256': loaded.sha256}
    apply = lpips.LPIPS('vgg').apply
  variables = jax.device_put(variables)

  @jax.jit
  def compiled(variables, x, y):
    x, y = (path_length.for_distance(image, protocol.crop) / 127.5 - 1
            for image in (x, y))
    if x.shape[-1] == 1:
      x, y = (jnp.repeat(image, 3, -1) for image in (x, y))
    return apply(variables, x, y)

  return lambda x, y: compiled(variables, x, y), facts
