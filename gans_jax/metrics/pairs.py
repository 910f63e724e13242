"""Metrics of pairs: an image beside what it should be, one by one.

  psnr, ssim        pixels
  lpips_vgg, lpips_alex, lpips_lite0 (EffLP)

For reconstructions beside their originals, and for two folders of images of
the same names.
"""

from collections.abc import Callable
from collections.abc import Iterable
import functools
import math
import time
from typing import Any

import jax
import numpy as np

from gans_jax.core import errors
from gans_jax.metrics import efficientnet_lite
from gans_jax.metrics import efflp
from gans_jax.metrics import features
from gans_jax.metrics import image_pairs

NAMES = ('psnr', 'ssim', 'lpips_vgg', 'lpips_alex', 'lpips_lite0')
HIGHER_IS_BETTER = ('psnr', 'ssim')

# Two batches of uint8 [n, H, W, C] -> float [n].
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def compute(names: Iterable[str], real: features.Stream,
            fake: features.Stream, num: int,
            weights: dict[str, str] | None = None,
            progress: features.Progress | None = None
            ) -> list[dict[str, Any]]:
  """Returns one result for each name: means over all pairs.

  Args:
    names: of `NAMES`.
    real: see `features.Stream`; `num` images or more.
    fake: as many, in the same order and batches.
    num: pairs.
    weights: files of LPIPS's trunks, by 'vgg16' and 'alexnet'.
    progress: called after every batch.

  Raises:
    UserError: unequal shapes or numbers, or weights that are absent.
  """
  distances = {name: _distance(name, weights or {}) for name in names}
  values: dict[str, list[np.ndarray]] = {name: [] for name in distances}
  done, start = 0, time.perf_counter()
  for (a, valid), (b, valid_b) in zip(real, fake, strict=False):
    a, b = (x if keep is None else x[np.asarray(keep, bool)]
            for x, keep in ((a, valid), (b, valid_b)))
    if a.shape != b.shape:
      raise errors.UserError(
          f'Pairs of images have one shape; found {list(a.shape)} and '
          f'{list(b.shape)}.')
    a, b = a[:num - done], b[:num - done]
    for name, (distance, _) in distances.items():
      values[name].append(distance(a, b))
    done += len(a)
    if progress:
      rate = done / (time.perf_counter() - start)
      progress(done, num, rate, (num - done) / rate)
    if done == num:
      break
  if done < num:
    raise errors.UserError(
        f'{num} pairs were to be compared, but there are {done}.')
  results = []
  for name, (_, facts) in distances.items():
    found = np.concatenate(values[name]).astype(np.float64)
    mean = float(found.mean())
    # PSNR of equal images is infinite, and so is then the mean.
    std = float(found.std()) if np.isfinite(mean) else math.nan
    results.append({
        'metric': name, 'value': mean, 'values': {name: mean, 'std': std},
        'measure': f'mean {name} of pairs', 'pairs': num, 'features': facts,
        'seconds': {'fake': round(time.perf_counter() - start, 3)}})
  return results


def _distance(name: str, weights: dict[str, str]
              ) -> tuple[Distance, dict[str, Any]]:
  if name in ('psnr', 'ssim'):
    return getattr(image_pairs, name), features.PIXELS.facts()
  if name == 'lpips_lite0':
    form = 'shifted' if jax.default_backend() == 'cpu' else 'lax'
    apply = jax.jit(functools.partial(efflp.distance, depthwise_form=form))
    variables = jax.device_put(efficientnet_lite.load_variables())
    facts = {'name': 'efflp',
             'weights_sha256': efficientnet_lite.WEIGHTS_SHA256}
  else:
    from gans_jax.convert import lpips as convert_lpips
    from gans_jax.metrics import lpips

    trunk = name.removeprefix('lpips_')
    loaded = convert_lpips.load_lpips(
        trunk, weights.get({'vgg': 'vgg16', 'alex': 'alexnet'}[trunk]))
    apply = jax.jit(lpips.LPIPS(trunk).apply)
    variables = jax.device_put(loaded.variables)
    facts = {'name': name, 'weights_sha256': loaded.sha256}

  def distance(a, b):
    x, y = (np.broadcast_to(
        image.astype(np.float32) / 127.5 - 1, (*image.shape[:3], 3))
        for image in (a, b))
    return np.asarray(apply(variables, x, y))

  return distance, facts
