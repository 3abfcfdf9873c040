"""Views, rows, masks and plates for the tests of the device's half of the views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipelines.config import BackgroundConfig, CropConfig, PhotometricConfig, ViewsConfig
from pipelines.kernels.settings import settings_of
from pipelines.ops import background, blur, color, solarize
from pipelines.ops.color import JitterMode
from pipelines.views import JITTER_ORDERS, KEEP, ROW, SWAP, draw

FILL = (128, 3, 250)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch as a device gets it, and what it was made of."""

    views: torch.Tensor
    lines: torch.Tensor
    masks: torch.Tensor
    plates: torch.Tensor
    rows: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    recipe: ViewsConfig

    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.views, self.lines, self.masks, self.plates

    def options(self) -> dict[str, object]:
        red, green, blue = (level / 255 for level in self.recipe.background.fill)
        return {"relicv2": self.recipe.photometric.jitter == "relicv2", "fill": (red, green, blue)}

    def truth(self) -> np.ndarray:
        """Return the views by the reference's operations, one by one: uint8 [N, S, S, 3]."""
        made = []
        for number, row in enumerate(self.rows):
            view, size = self.views[number], self.views.shape[1]
            mask = np.unpackbits(self.masks[number].numpy()).reshape(128, 128).astype(bool)
            made.append(_by_reference(view, row, size, self, mask, int(self.heights[number]), int(self.widths[number])))
        return np.stack(made)


def _by_reference(view, row, size: int, case: Case, mask: np.ndarray, height: int, width: int) -> np.ndarray:
    planes = view.permute(2, 0, 1).to(torch.float32) / 255
    if row["background"] != KEEP:
        cover = background.reference_cover(torch.from_numpy(mask), row, size, height, width)
        behind = torch.tensor(case.recipe.background.fill, dtype=torch.float32).view(3, 1, 1) / 255
        if row["background"] == SWAP:
            behind = background.reference_plate(case.plates[int(row["plate"]) % len(case.plates)], size)
        planes = background.reference(planes, cover, behind)
    planes = color.reference_jitter(planes, row, case.recipe.photometric.jitter)
    if row["gray"]:
        planes = color.reference_grayscale(planes)
    planes = blur.reference(planes, float(row["blur_sigma"]))
    if row["solarize"]:
        planes = solarize.reference(planes)
    return (planes * 255).clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def case(size: int, mode: JitterMode, *, count: int = 24, seed: int = 0, neutral: bool = False) -> Case:
    """Draw a batch: all 24 orders, smooth and rough pictures, removed and swapped backgrounds; or nothing at all."""
    rng = np.random.default_rng(seed)
    recipe = ViewsConfig(
        large=CropConfig(count=1, size=size),
        small=CropConfig(count=0, size=1),
        photometric=PhotometricConfig(jitter=mode, jitter_chance=0.9, blur=(0.5, 0.5), solarize=(0.3, 0.3)),
        background=BackgroundConfig(chance=0.7, mode="swap", fill=FILL),
    )
    heights, widths = rng.integers(30, 400, (2, count))
    rows = draw(recipe, seed=seed, epoch=0, indices=np.arange(count), heights=heights, widths=widths)[:, 0]
    rows["order"] = np.arange(count) % len(JITTER_ORDERS)
    rows["background"][::3] = np.minimum(rows["background"][::3], 1)
    if neutral:
        off = np.zeros(count, ROW)
        for name in ("top", "left", "height", "width"):
            off[name] = rows[name]
        off["order"], off["contrast"], off["saturation"] = rows["order"], 1, 1
        off["brightness"] = 0 if mode == "relicv2" else 1
        rows = off
    coarse = rng.integers(0, 256, (count, size // 5 + 1, size // 5 + 1, 3)).astype(np.uint8)
    views = coarse.repeat(5, axis=1).repeat(5, axis=2)[:, :size, :size].copy()
    views[::4] = rng.integers(0, 256, views[::4].shape)
    views[1::8] = views[1::8, :1, :1]  # of one colour, gray among them
    views[1::16] = views[1::16, ..., :1]
    masks = np.packbits(rng.random((count, 128 * 128)) < 0.5, axis=1)
    plates = rng.integers(0, 256, (5, 13, 22, 3)).astype(np.uint8)
    lines = settings_of(rows, size, mode=mode, heights=heights, widths=widths, num_plates=len(plates))
    return Case(
        views=torch.from_numpy(views),
        lines=torch.from_numpy(lines),
        masks=torch.from_numpy(masks),
        plates=torch.from_numpy(plates),
        rows=rows,
        heights=heights,
        widths=widths,
        recipe=recipe,
    )
