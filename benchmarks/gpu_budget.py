"""`python -m benchmarks gpu-budget`: what every Triton kernel costs a GPU per source image, on paper, from shapes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.config import ViewsConfig
    from relic.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What bounds a kernel without tensor cores; the maker's figures."""

    bytes_per_second: float
    flops: float
    """float32 operations per second, a multiply-add counted as two."""


GPUS = {
    "A100": Gpu(bytes_per_second=2.039e12, flops=19.5e12),
    "H100": Gpu(bytes_per_second=3.35e12, flops=67e12),
}
"""A100 SXM 80 GB and H100 SXM."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a kernel moves and computes per source image."""

    kernel: str
    case: str
    """Its case in `relic.kernels.ahead_of_time.KERNELS`."""
    bytes: float
    """From and to memory; what the caches serve again is not counted."""
    flops: float

    def seconds(self, gpu: Gpu) -> float:
        """Return the least time that it takes: of moving or of computing, whichever is longer."""
        return max(self.bytes / gpu.bytes_per_second, self.flops / gpu.flops)


# Operations per pixel, counted in `pipelines.kernels.photometric`: three channels, a multiply-add as two, comparisons
# and choices as one each.
LOAD, BACKGROUND, PLATE = 3, 50, 60
BRIGHTNESS, CONTRAST, SATURATION, HUE, CLAMP = 3, 9, 55, 62, 6
GRAY, SOLARIZE, STORE = 5, 6, 24
TAP = 6
"""Of one pair of taps per channel and pass: two loads converted, added, multiplied and added."""


def gpu_budget(recipe: str = "relicv2_r50_300ep", local_batch: int = 512, json: str | None = None) -> int:
    """Count bytes and operations of all Triton kernels per source image, and the least time they take on two GPUs.

    Beside them stand registers, shared memory and spilled bytes, as the assembler says for A100, H100 and B200. Nothing
    is measured, and no GPU is needed.

    Args:
        recipe: Recipe of the method, whose chances decide how many views are blurred, recoloured or swapped.
        local_batch: Source images per GPU and step: what the optimizer moves is shared among them.
        json: File for the records, - for standard output.
    """
    from benchmarks import machine, records
    from benchmarks.table import text_table
    from relic import recipes
    from relic.kernels.ahead_of_time import KERNELS, TARGETS, compile_for

    records.check_target(json)
    if local_batch < 1:
        raise ValueError(f"local-batch {local_batch}: give at least 1")
    try:
        import triton  # noqa: F401
    except ImportError:
        raise ValueError("Triton is missing, which compiles the kernels: pip install triton") from None
    config = recipes.get(recipe)
    costs = [*view_costs(config.views), *step_costs(config, local_batch)]
    shared = records.conditions(machine.describe())
    made, rows = [], []
    for cost in costs:
        case = KERNELS[cost.case]()
        compiled = [
            compile_for(
                case.kernel,
                signature=case.signature,
                constants=case.constants,
                capability=target,
                num_warps=case.num_warps,
            )
            for target in TARGETS
        ]
        floors = {name: cost.seconds(gpu) for name, gpu in GPUS.items()}
        rows.append(
            (
                cost.kernel,
                f"{cost.bytes / 1e3:,.1f}",
                f"{cost.flops / 1e6:,.2f}",
                *(f"{seconds * 1e6:.3f}" for seconds in floors.values()),
                "/".join(str(each.registers) for each in compiled),
                "/".join(str(each.shared_bytes) for each in compiled),
                "/".join(str(each.spill_bytes) for each in compiled),
            )
        )
        made.append(_record(cost, floors, compiled, config, local_batch, shared))
    totals = [sum(cost.seconds(gpu) for cost in costs) * 1e6 for gpu in GPUS.values()]
    rows.append(("all", *("" for _ in range(2)), *(f"{total:.3f}" for total in totals), "", "", ""))
    targets = "/".join(f"sm_{target}" for target in TARGETS)
    header = ("kernel", "kB", "MFLOP", *(f"µs {name}" for name in GPUS), f"registers {targets}", "shared", "spilled")
    out = sys.stderr if json == "-" else sys.stdout
    print(text_table(header, rows), file=out)
    print(
        f"\nper source image of {recipe}, {local_batch} images per GPU and step; the least time, by memory or float32"
        " units, whichever is longer. Nothing is measured.",
        file=out,
    )
    if json is not None:
        records.write(made, json)
    return int(any(entry["spill_bytes"] for entry in made))


def _record(
    cost: Cost,
    floors: dict[str, float],
    compiled: list[Any],
    config: RunConfig,
    local_batch: int,
    shared: dict[str, Any],
) -> dict[str, Any]:
    from dataclasses import asdict

    from benchmarks import records

    return {
        "benchmark": "gpu-budget",
        "provider": cost.kernel,
        "value": floors["H100"] * 1e6,
        "unit": "µs per source image on an H100, at least",
        "low": floors["H100"] * 1e6,
        "high": floors["H100"] * 1e6,
        "repeats": 0,
        "threads": None,
        "recipe": asdict(config.views),
        "images": None,
        "local_batch": local_batch,
        "bytes": cost.bytes,
        "flops": cost.flops,
        "floor_seconds": floors,
        "registers": [each.registers for each in compiled],
        "shared_bytes": [each.shared_bytes for each in compiled],
        "spill_bytes": sum(each.spill_bytes for each in compiled),
        "versions": records.versions((*records.ALWAYS, "triton")),
        **shared,
    }


# -- counting ---------------------------------------------------------------------------------------------------------


def view_costs(views: ViewsConfig, *, item_bytes: int = 2) -> list[Cost]:
    """Count the kernels that finish the views of an image.

    Args:
        views: the recipe; odd and even views are blurred and solarized by their own chances.
        item_bytes: bytes per channel of the finished views; 2 for bfloat16.
    """
    count, photometric = views.large.count + views.small.count, views.photometric
    totals = {"means": [0.0, 0.0], "colour": [0.0, 0.0], "blur along y": [0.0, 0.0], "blur along x": [0.0, 0.0]}

    def add(name: str, moved: float, computed: float) -> None:
        totals[name][0] += moved
        totals[name][1] += computed

    jitter = photometric.jitter_chance
    each = (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    before_contrast = 0.5 * (sum(each) - CONTRAST + 3 * CLAMP)  # each of the others precedes it in half of all orders
    for number in range(count):
        is_large, is_even = number < views.large.count, number % 2
        size = views.large.size if is_large else views.small.size
        pixels = size * size
        blurred = photometric.blur[is_even] if size // 20 else 0.0
        swapped = views.background.chance if is_large else 0.0
        behind = swapped * (BACKGROUND + (PLATE if views.background.mode == "swap" else 0))
        add("means", jitter * 3 * pixels, jitter * pixels * (LOAD + behind + before_contrast + 3))
        operations = LOAD + behind + jitter * (sum(each) + 4 * CLAMP) + photometric.grayscale * GRAY
        finish = STORE + photometric.solarize[is_even] * SOLARIZE
        kept = (1 - blurred) * 3 * item_bytes + blurred * 3 * 2
        add("colour", (3 + kept) * pixels, (operations + finish) * pixels)
        taps = 3 * TAP * mean_reach(photometric.blur_sigma, size)
        add("blur along y", blurred * 12 * pixels, blurred * taps * pixels)
        add("blur along x", blurred * (6 + 3 * item_bytes) * pixels, blurred * (taps + finish) * pixels)
    cases = {"means": "views means", "colour": "views colour"}
    return [
        Cost(kernel=f"views {name}", case=cases.get(name, f"views {name}"), bytes=moved, flops=computed)
        for name, (moved, computed) in totals.items()
    ]


def mean_reach(sigmas: tuple[float, float], size: int) -> float:
    """Return the pairs of taps of a blur, averaged over σ drawn evenly between two."""
    import math

    from pipelines.ops.blur import radius

    steps = 1000
    low, high = sigmas
    drawn = (low + (high - low) * (step + 0.5) / steps for step in range(steps))
    return sum(min(math.ceil(3 * sigma), radius(size)) for sigma in drawn) / steps


def step_costs(config: RunConfig, local_batch: int) -> list[Cost]:
    """Count the kernels of the loss, the optimizer and the target's average; derivations stand above the kernels."""
    from benchmarks import step_model

    work = step_model.workload(config, dataset_images=1_281_167, image_bytes=1.1e5, concatenate=False)
    online = config.views.large.count + config.views.small.count
    target, features = config.views.large.count, config.model.projection_dim
    negatives = config.loss.num_negatives
    candidates = 1 + (negatives if negatives is not None else local_batch - 1)
    logits = online * target * candidates
    outputs, item = (online + target) * features, 2
    trained, averaged = work.trained_parameters / local_batch, work.target_parameters / local_batch
    return [
        # both directions of every pair, 2 per multiply-add; x and y written
        Cost(kernel="loss logits", case="loss logits", bytes=item * outputs + 8 * logits, flops=4 * logits * features),
        # x and y read, their derivatives written; two softmaxes and a divergence
        Cost(kernel="loss terms", case="loss terms", bytes=16 * logits, flops=30 * logits),
        # X and Y times the other side's outputs; the gradient in float32
        Cost(
            kernel="loss gradient",
            case="loss gradient",
            bytes=item * outputs + 8 * logits + 4 * online * features,
            flops=4 * logits * features,
        ),
        Cost(kernel="LARS norms", case="lars norms", bytes=8 * trained, flops=6 * trained),
        Cost(kernel="LARS update", case="lars update", bytes=20 * trained, flops=7 * trained),
        Cost(kernel="target average", case="target lerp", bytes=12 * averaged, flops=3 * averaged),
    ]
