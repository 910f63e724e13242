"""Minibatch discrimination (Salimans et al. 2016, arXiv:1606.03498, sec. 3.2).

ProGAN's table 1, row e*, has 100 kernels of it before the last layer.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp


class MinibatchDiscrimination(nn.Module):
  """Appends how close each example is to the others of its batch.

  With M_i = x_i T, T [C, kernels, dims], kernel b of example i gets

    o(x_i)_b = sum_{j != i} exp(-|M_ib - M_jb|_1) + bias_b

  as in the first author's code: T's columns have a learnt length, e^s, and
  s = 0 and bias -1 at the start. That code also sets both by the data before
  training, so that distances and sums start near 2 and 0; that is left out.

  Params: `theta` [C, kernels, dims], N(0, 0.05^2), `log_scale` [kernels,
  dims] and `bias` [kernels].

  Attributes:
    kernels: features to append.
    dims: size of each row of M_i.
  """

  kernels: int = 100
  dims: int = 5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, C] -> [N, C + kernels], in the type of x; computed in float32."""
    shape = (x.shape[-1], self.kernels, self.dims)
    theta = self.param('theta', nn.initializers.normal(0.05), shape)
    log_scale = self.param('log_scale', nn.initializers.zeros, shape[1:])
    bias = self.param('bias', nn.initializers.constant(-1.0), shape[1:2])
    length = jnp.exp(log_scale) / jnp.sqrt(jnp.sum(jnp.square(theta), 0))
    m = jnp.einsum('nc,ckd->nkd', x.astype(jnp.float32), theta * length[None])
    distance = jnp.sum(jnp.abs(m[:, None] - m[None]), -1)  # [N, N, kernels]
    others = 1.0 - jnp.eye(x.shape[0])
    near = jnp.sum(jnp.exp(-distance) * others[:, :, None], 1)
    return jnp.concatenate(
        [x, (near + bias[None]).astype(x.dtype)], -1)
