"""LeCam: D's predictions are held near those of the past on the other side.

Tseng et al. 2021, arXiv:2104.03310, section 3.2. With a_r and a_f the moving
averages of E D(x) and E D(G(z)), L_D has in addition

  weight (E [D(x) - a_f]_+^2 + E [a_r - D(G(z))]_+^2)

in the form of the authors' code (google/lecam-gan): the paper's equation has
no [.]_+, which makes no difference while every real logit is above a_f and
every fake one below a_r. Weights there: 0.3 of BigGAN on CIFAR, from step
1000 on, averages of decay 0.9 (0.99 in the StyleGAN2 code, with weights of
3e-7 on FFHQ and 1e-6 on CIFAR).

Until the start the averages are the last batch's means.

Deviations:
1. The averages that an update meets are those of the updates before it; in
   the code the batch itself has entered them. So they do not depend on how a
   batch is split into microbatches.
2. The code begins to average one step before the start.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Memory = dict[str, jax.Array]


def init() -> Memory:
  """Returns the averages at step 0: {'real', 'fake'}, float32 scalars."""
  return {'real': jnp.zeros([], jnp.float32),
          'fake': jnp.zeros([], jnp.float32)}


def regularizer(real: jax.Array, fake: jax.Array,
                averages: Mapping[str, jax.Array]) -> jax.Array:
  """E [l_r - a_f]_+^2 + E [a_r - l_f]_+^2 of logits [N], float32."""
  real, fake = real.astype(jnp.float32), fake.astype(jnp.float32)
  return (jnp.mean(jnp.square(jax.nn.relu(real - averages['fake']))) +
          jnp.mean(jnp.square(jax.nn.relu(averages['real'] - fake))))


def update(averages: Mapping[str, jax.Array], means: Mapping[str, jax.Array],
           decay: float | jax.Array) -> Memory:
  """Returns decay * averages + (1 - decay) * means.

  Args:
    averages: {'real', 'fake'}.
    means: the same, D's means over the global batch.
    decay: weight of the old averages; 0 until the start.
  """
  return {kind: decay * averages[kind]
          + (1.0 - decay) * means[kind].astype(jnp.float32)
          for kind in ('real', 'fake')}
