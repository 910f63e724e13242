"""gans_jax: the image GANs and their relatives, in JAX and Flax.

`python -m gans_jax.main --config=experiments/quickstart.py` trains; from
Python, `gans_jax.load(workdir)` gives a generator.
"""

__version__ = '0.1.0'


def load(workdir: str, **kwargs):
  """Loads a trained or converted generator; see `gans_jax.sample.load`."""
  # Imported late: `import gans_jax` must not pay for JAX.
  from gans_jax import sample

  return sample.load(workdir, **kwargs)
