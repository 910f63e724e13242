"""StyleGAN2: Analyzing and Improving the Image Quality of StyleGAN.

Karras, Laine, Aittala, Hellsten, Lehtinen, Aila 2020, arXiv:1912.04958, with
the networks and the trainer of the authors' stylegan2-ada-pytorch.
networks.py has the networks, system.py the training step.

  section 2.2  modulation and demodulation: nn/modulated_conv.py
  section 3.1  lazy regularization, appendix B: `System.train_step`
  section 3.2  path length regularization: losses/path_length.py
  section 4.1  model.G and model.D, each 'orig', 'skip' or 'resnet': table 2
  section 4.2  config F: model.channel_base 32768; E: 16384

  Row              Config
  table 1, A       systems/stylegan.py
  table 1, B       model.G and model.D 'orig', growing.*: `CONFIG_B`
  table 1, C       on B, loss.r1_every=16, loss.pl_every=4
  table 1, D       on C, loss.pl_weight=2
  table 1, E       model.channel_base=16384, loss.r1_gamma=100
  table 1, F       the default
  table 2          model.G and model.D, on E

One iteration, in the order of the code: G on -log D, every 4th time G on the
path length, D on real and generated images, every 16th time D on R1; then the
average of weights. Every pass has latents of its own; a penalty is an Adam
step of its own with the same moments, its loss times its interval, and the
settings of Adam are corrected for it, also where the penalty's weight is 0.
With an interval of 1 (configs A and B) the penalty is a term of the loss.

growing.first_resolution: networks of figure 2d, which grow as StyleGAN's do,
with its batches and rates by resolution, 'orig' with colours at every
resolution. R1 is, as there, on the gradient with respect to images of the
last resolution whose pixels repeat (systems/progan.py). The path length is
the same at both: y, drawn for R^2 pixels and divided by R, sums over the
copies of one of r^2 to a normal number divided by r.

Conditional networks are those of StyleGAN2-ADA: the label is embedded,
normalized and appended to z; D's output is the product with a mapped label,
through model.d_mapping_layers layers (8 in the PyTorch code, 0 in TensorFlow).

augment.kind: StyleGAN2-ADA (Karras et al. 2020, arXiv:2006.06676). All that D
sees is augmented, in G's loss too; R1 is of the images before it. `presets.py`
has the settings of its trainer. 'diffaugment', and consistency regularization
(bCR) and LeCam with any kind: losses/regularizers.py.

dtype='bfloat16': the `model.bf16_blocks` highest resolutions compute in
bfloat16; float32 stay parameters, the mapping networks, styles, demodulation,
the image, all of D at 4x4, losses and statistics. model.conv_clamp=256 bounds
activations as ADA's trainer does in float16.

Deviations:
1. Statistics (minibatch standard deviation, mean path length, average w) are
   of the global batch, with one cutoff of style mixing for it; the code has
   them for each device. The average w is the same everywhere and saved, as is
   the mean path length.
2. Groups of minibatch standard deviation are successive examples, which takes
   no communication between devices; model.mbstd_order='strided' has the
   code's groups. Examples are independent: nothing else changes.
3. Path length takes fresh latents (the TensorFlow code; PyTorch: half of a
   batch drawn for that pass). With microbatches, each compares with an
   average that includes its own lengths, and the average moves once a step.
4. Labels of generated images are those of the real images of the step, so
   they follow the data's distribution, which the code samples.
5. Gradients that are not finite stop the run (alarms) instead of being
   replaced by 0.
6. Images may be twice or four times as wide as high, or high as wide: the
   constant input is then 2x4 or 1x4. Layers are those of the square image of
   the longer side. `data.aspect` gives such images.
"""

from gans_jax.systems.stylegan2.system import CONFIG_B
from gans_jax.systems.stylegan2.system import CONFIG_C
from gans_jax.systems.stylegan2.system import CONFIG_D
from gans_jax.systems.stylegan2.system import CONFIG_E
from gans_jax.systems.stylegan2.system import CONFIG_F
from gans_jax.systems.stylegan2.system import TABLE_2
from gans_jax.systems.stylegan2.system import TINY
from gans_jax.systems.stylegan2.system import TINY_GROWING
from gans_jax.systems.stylegan2.system import System
from gans_jax.systems.stylegan2.system import create
from gans_jax.systems.stylegan2.system import default_config

# See core/system.py.
ANY_ASPECT = True

__all__ = ('CONFIG_B', 'CONFIG_C', 'CONFIG_D', 'CONFIG_E', 'CONFIG_F',
           'System', 'TABLE_2', 'TINY', 'TINY_GROWING', 'create',
           'default_config')
