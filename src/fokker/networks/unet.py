"""A small convolutional network for images."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from fokker.networks.blocks import LocalBlock, Modulation, Pointwise, check_field, zeroed


class UNet(nn.Module):
    """Convolutions on halved grids and back, with skip connections (Ronneberger et al. 2015), for images of one size.

    Each of `levels` grids has two residual blocks, one on the way down and one on the way up, with the noise level in
    each; a grid is the mean over 2 x 2 pixels of the one before (of what there is at an odd side), and on the way up
    pixels are repeated. Level l has width 2^l times `width`, at most `widest`. No normalisation: nothing mixes rows,
    and the preconditioning keeps the scale. On images of another size the network is another one, since its
    convolutions see pixels; `UShapedOperator` is for functions.
    """

    def __init__(
        self, c_in: int, c_out: int, width: int = 16, levels: int = 4, widest: int = 64, level_width: int = 64
    ):
        super().__init__()
        self._settings = {
            "kind": "unet", "c_in": c_in, "c_out": c_out, "width": width, "levels": levels, "widest": widest,
            "level_width": level_width,
        }  # fmt: skip
        self.c_in = c_in
        widths = [min(width * 2**level, widest) for level in range(levels)]
        self.level = Modulation([*widths, *widths[::-1]], level_width)
        self.lift = Pointwise(c_in, width)
        self.before = nn.ModuleList(LocalBlock(size, 2) for size in widths)
        self.down = nn.ModuleList(Pointwise(size, wider) for size, wider in pairwise(widths))
        self.after = nn.ModuleList(LocalBlock(size, 2) for size in widths[::-1])
        self.up = nn.ModuleList(Pointwise(wider, size) for size, wider in zip(widths[-2::-1], widths[:0:-1]))
        self.leave = zeroed(Pointwise(width, c_out))

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """x (B, c_in, H, W), level (B,), (1,) or None -> (B, c_out, H, W); InputError for another shape."""
        check_field(x, self.c_in, 2)
        films = iter(self.level(level, len(x)))
        h, kept = self.lift(x), []
        for index, block in enumerate(self.before):
            h = block(h, *next(films))
            if index < len(self.down):
                kept.append(h)
                halved = nn.functional.avg_pool2d(h, 2, ceil_mode=True, count_include_pad=False)
                h = self.down[index](halved)
        for index, block in enumerate(self.after):
            if index:
                skip = kept.pop()
                h = skip + nn.functional.interpolate(self.up[index - 1](h), skip.shape[2:])
            h = block(h, *next(films))
        return self.leave(h)

    def settings(self) -> dict[str, Any]:
        """Kind and sizes."""
        return dict(self._settings)
