"""What PT-DiT needs to be trained and sampled: rectified flow, guidance, samplers, autoencoders and text encoders.

Pictures or latents are (B, C, H, W), videos (B, C, F, H, W); times are (B,), from 0 (data) to 1000 (noise).
"""

from backbones.diffusion.autoencoder import Autoencoder, check_channels, check_size
from backbones.diffusion.flow import add_noise, draw_times, flow_loss, resolution_shift, shift_times
from backbones.diffusion.guidance import Guidance, drop_labels, velocity
from backbones.diffusion.pictures import draw_grid, to_image, write_video
from backbones.diffusion.sampling import SOLVERS, draw_noise, generate, sample
from backbones.diffusion.text import TextEncoder

__all__ = [
    "SOLVERS",
    "Autoencoder",
    "Guidance",
    "TextEncoder",
    "add_noise",
    "check_channels",
    "check_size",
    "draw_grid",
    "draw_noise",
    "draw_times",
    "drop_labels",
    "flow_loss",
    "generate",
    "resolution_shift",
    "sample",
    "shift_times",
    "to_image",
    "velocity",
    "write_video",
]
