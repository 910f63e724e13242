"""Minibatch standard deviation (Karras et al. 2018, ProGAN, section 3)."""

import jax
import jax.numpy as jnp

ORDERS = ('strided', 'contiguous')


def minibatch_stddev(x: jax.Array, group_size: int = 4, num_channels: int = 1,
                     order: str = 'strided',
                     epsilon: float = 1e-8) -> jax.Array:
  """Appends how much the examples of a group differ, as constant maps.

  The biased standard deviation over the group, sqrt(var + epsilon), is
  averaged over height, width and the channels (a `num_channels`-th part of
  them for each new channel), in float32.

  Which examples make a group means nothing where they are drawn
  independently, but it decides what a batch split over devices costs:

    'strided': group m has the examples m, m + N/G, m + 2N/G, ..., as in the
      official codes. Over several devices every group spans all of them: two
      all-reduces of the activations, four with the gradient.
    'contiguous': group m has the examples mG ... mG + G - 1; no communication
      if each device holds a multiple of G.

  Both give the same value on any number of devices.

  Args:
    x: [N, H, W, C].
    group_size: examples of a group G; N if there are fewer.
    num_channels: channels to append, a divisor of C.
    order: 'strided' or 'contiguous'.
    epsilon: added to the variance.

  Returns:
    [N, H, W, C + num_channels], in the type of x.

  Raises:
    ValueError: N is not a multiple of the group, C not one of num_channels,
      or an unknown order.
  """
  n, height, width, channels = x.shape
  size = min(group_size, n)
  if n % size or channels % num_channels:
    raise ValueError(
        f'minibatch stddev of {x.shape} needs a batch that is a multiple of '
        f'its groups of {size}, and channels that are one of {num_channels}.')
  if order not in ORDERS:
    raise ValueError(f'order {order!r} is none of {", ".join(ORDERS)}.')
  axis = 0 if order == 'strided' else 1
  groups = (size, n // size) if order == 'strided' else (n // size, size)
  y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  y = y.reshape(*groups, height, width, num_channels, -1)
  y = y - jnp.mean(y, axis, keepdims=True)
  std = jnp.sqrt(jnp.mean(jnp.square(y), axis, keepdims=True) + epsilon)
  std = jnp.mean(std, (2, 3, 5), keepdims=True)
  maps = jnp.broadcast_to(std, (*groups, height, width, num_channels, 1))
  maps = maps.reshape(n, height, width, num_channels)
  return jnp.concatenate([x, maps.astype(x.dtype)], -1)
