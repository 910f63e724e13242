"""Latent spaces of trained generators: inversion, directions, mixing."""
