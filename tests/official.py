"""Official PyTorch packages, to be held against: `package('lpips')`.

They need torchvision. That of PyPI is built for CUDA: beside the CPU build of
torch its compiled operators do not load, and its import ends at the first of
them. Networks use none, so two names are enough for it.
"""

import importlib
import sys

import torch


def package(name: str):
  """Returns the module `name` of a package that needs torchvision."""
  try:
    importlib.import_module('torchvision')
  except RuntimeError as e:
    if 'operator torchvision::nms does not exist' not in str(e):
      raise
    for module in [m for m in sys.modules if m.split('.')[0] == 'torchvision']:
      del sys.modules[module]
    for operator in ('nms', 'qnms'):
      torch.library.define(f'torchvision::{operator}',
                           '(Tensor dets, Tensor scores, float iou) -> Tensor')
  return importlib.import_module(name)
