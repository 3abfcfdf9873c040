"""Who can make the views: a name, a module with `prepare(work) -> Provider`, and how to install what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.engine.settings import Output


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the registry."""

    module: str
    """Module in this package; it is imported in the provider's own process only."""
    output: Output | None = "float32"
    """What it delivers; None: no views at all."""
    is_ours: bool = False
    """Whether it knows the jitter `relicv2`; peers get rows drawn for torchvision's."""
    photometric: bool = True
    """Whether it does all; False: it stops after the geometry."""
    on_gpu: bool = False
    """Whether it is meant for a GPU: without one it takes part only if it is named."""
    needs: tuple[str, ...] = ()
    """Distributions whose versions belong to its figures."""
    mend: str = "pip install relicv2"
    """Command that installs them."""


DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")

PROVIDERS: dict[str, Entry] = {
    "decode": Entry(module="decode", output=None, is_ours=True, needs=("simplejpeg",)),
    "fused": Entry(module="fused", output="uint8", is_ours=True, needs=("simplejpeg",)),
    "fused-bf16": Entry(module="fused", output="bfloat16", is_ours=True, needs=("simplejpeg",)),
    "fused-float32": Entry(module="fused", is_ours=True, needs=("simplejpeg",)),
    "fused-geometry": Entry(module="fused", output="uint8", is_ours=True, photometric=False, needs=("simplejpeg",)),
    "fused-device": Entry(
        module="fused_device", output="bfloat16", is_ours=True, on_gpu=True, needs=("simplejpeg", "triton")
    ),
    "dali": Entry(
        module="dali_device",
        output="bfloat16",
        is_ours=True,
        on_gpu=True,
        needs=("triton", *DALI),
        mend="pip install nvidia-dali-cuda130",
    ),
    "dali-cpu": Entry(module="dali", needs=DALI, mend="pip install nvidia-dali-cuda130"),
    "ffcv": Entry(
        module="ffcv", needs=("ffcv",), mend="pip install --no-deps ffcv==1.0.2 assertpy terminaltables tqdm"
    ),
    "albumentations": Entry(
        module="albumentations", needs=("albumentations", "opencv-python-headless"), mend="pip install albumentations"
    ),
    "lightly": Entry(module="lightly", needs=("lightly", "torchvision", "pillow"), mend="pip install lightly"),
    "torchvision": Entry(module="torchvision", needs=("torchvision", "pillow"), mend="pip install torchvision"),
    "torchvision-v2": Entry(module="torchvision_v2", needs=("torchvision",), mend="pip install torchvision"),
    "kornia": Entry(module="kornia", needs=("kornia", "torchvision"), mend="pip install kornia"),
    "reference": Entry(module="reference", output="uint8", is_ours=True, needs=("torch", "pillow")),
}
"""Fast ones first, so that in a round they stand close to `decode`, their unit."""
