"""SeFa: directions in W from the weights alone.

Shen, Zhou, Closed-Form Factorization of Latent Semantics in GANs, CVPR 2021,
arXiv 2007.06600. The first thing that a layer does with w is y = A w + b
(section 2.1). Of all steps of length 1, those that change y most are

  argmax over |n| = 1 of |A n|^2                                     (eq. 3)

the eigenvectors of A^T A with the largest eigenvalues (equation 6). For
several layers their matrices are put on top of each other.

Deviation: as the authors' code and not as the paper, rows of A have length 1
before (`normalize`), so that no channel counts more than another.
"""

from collections.abc import Sequence

import numpy as np

from gans_jax.core import errors


def factorize(kernels: Sequence[np.ndarray], normalize: bool = True
              ) -> tuple[np.ndarray, np.ndarray]:
  """Returns the directions of some layers, the strongest first.

  Args:
    kernels: of the layers' style transforms, A^T, [D, C] each.
    normalize: see the module.

  Returns:
    directions: float32 [D, D], one in a row, of length 1; each with its
      largest entry positive (a direction has no sign by itself).
    strengths: float32 [D], |A n|^2.
  """
  a = np.concatenate([np.asarray(k, np.float64) for k in kernels], axis=1).T
  if normalize:
    length = np.linalg.norm(a, axis=1, keepdims=True)
    a = a / np.where(length > 0, length, 1.0)
  strengths, vectors = np.linalg.eigh(a.T @ a)
  directions = signed(vectors.T[::-1])
  return directions.astype(np.float32), strengths[::-1].astype(np.float32)


def signed(directions: np.ndarray) -> np.ndarray:
  """Turns rows so that the largest entry of each is positive."""
  largest = np.abs(directions).argmax(axis=1)[:, None]
  sign = np.sign(np.take_along_axis(directions, largest, axis=1))
  return directions * np.where(sign == 0, 1.0, sign)


def style_kernels(params, layers: Sequence[int] | None = None
                  ) -> list[np.ndarray]:
  """Collects the kernels that turn w into styles, from coarse to fine.

  Args:
    params: parameters of a generator with a `synthesis` of blocks b4, b8, ...
      (StyleGAN2) or 4x4, 8x8, ... (StyleGAN).
    layers: which of them, by the index of the w that each gets; by default
      all. Where a ToRGB shares its w with the next convolution, it is left
      out, so that only the last one counts, as in the authors' code.

  Raises:
    UserError: a generator without styles, or no such layer.
  """
  synthesis = params.get('synthesis', {})
  blocks = sorted((int(name.strip('b').partition('x')[0]), name)
                  for name in synthesis
                  if name.strip('b').partition('x')[0].isdigit())
  found = []
  for i, (_, block) in enumerate(blocks):
    names = ['Const', 'Dense', 'conv0', 'conv1', 'Conv', 'Conv0_up', 'Conv1']
    names += ['torgb'] if i == len(blocks) - 1 else []
    for name in names:
      layer = synthesis[block].get(name, {})
      for style in ('affine', 'StyleMod'):
        if style in layer:
          found.append(np.asarray(layer[style]['kernel']))
  if not found:
    raise errors.UserError(
        'This generator has no styles to factorize: SeFa needs a generator '
        'of StyleGAN, StyleGAN2 or the like.')
  if layers is None:
    return found
  layers = list(layers)
  if not layers or min(layers) < 0 or max(layers) >= len(found):
    raise errors.UserError(
        f'The layers are {layers}, but this generator has {len(found)}, 0 to '
        f'{len(found) - 1}.')
  return [found[i] for i in layers]
