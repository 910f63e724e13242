"""The static page of `gans_jax.report`: one idea per file."""
