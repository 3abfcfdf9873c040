"""`python -m benchmarks precision`: bfloat16 in channels-last memory against float32 in NCHW, in speed and in loss."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relic.config import RunConfig

FAST, PLAIN = "bfloat16, channels-last", "float32, NCHW"
SMOOTHING = 25
"""Steps that a shown loss is the mean of."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Losses and seconds of every step of both runs."""

    losses: dict[str, list[float]]
    seconds: dict[str, list[float]]

    def speed_ratio(self) -> tuple[float, float, float]:
        """Return how many times faster the fast run's steps are: median, 10th and 90th percentile of the pairs."""
        pairs = zip(self.seconds[PLAIN], self.seconds[FAST], strict=True)
        ratios = sorted(plain / fast for plain, fast in pairs)
        last = len(ratios) - 1
        return statistics.median(ratios), ratios[last // 10], ratios[last - last // 10]

    def smoothed(self, name: str) -> list[float]:
        """Return the means of the losses of each SMOOTHING steps."""
        losses = self.losses[name]
        starts = range(0, len(losses) - SMOOTHING + 1, SMOOTHING)
        return [statistics.fmean(losses[start : start + SMOOTHING]) for start in starts]

    def differences(self) -> tuple[float, float]:
        """Return mean and largest relative difference of the smoothed losses."""
        pairs = zip(self.smoothed(FAST), self.smoothed(PLAIN), strict=True)
        found = [abs(fast - plain) / plain for fast, plain in pairs]
        return statistics.fmean(found), max(found)


def precision(
    data: Path,
    recipe: str = "cifar10_r18",
    steps: int = 300,
    backbone: str | None = None,
    batch_size: int | None = None,
    threads: int = 1,
    seed: int = 0,
    out: Path = Path("precision.png"),
    json: str | None = None,
) -> int:
    """Train two runs step by step, from the same weights on the same views: bfloat16 channels-last and float32 NCHW.

    Args:
        data: Beton to train on.
        recipe: Recipe of both runs.
        steps: Updates of each; the schedules are those of a run of this length.
        backbone: Another backbone than the recipe's.
        batch_size: Another batch size than the recipe's.
        threads: Threads of torch.
        seed: Seed of weights, order, views and negatives.
        out: PNG file for the two curves.
        json: File for the record, - for standard output (the table then goes to standard error).
    """
    from benchmarks import machine, records
    from relic import cores, recipes

    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out} is no .png file: give it that ending")
    if steps < 2 * SMOOTHING:
        raise ValueError(f"steps {steps}: give at least {2 * SMOOTHING}, of which {SMOOTHING} are averaged")
    if threads > cores.available():
        raise ValueError(f"threads {threads}: this process may use {cores.available()} cores; give at most that")
    records.check_target(json)
    config = recipes.get(recipe)
    config = replace(
        config,
        data=str(data),
        device="cpu",
        seed=seed,
        duration=f"{steps}st",
        batch_size=batch_size or config.batch_size,
        model=replace(config.model, backbone=backbone or config.model.backbone),
        optim=replace(config.optim, warmup="5%"),
    )
    shared = records.conditions(machine.describe())
    curves = train_both(config, threads)
    conditions = conditions_line(config, threads, shared["machine"])
    print(f"{conditions}\n\n{table(curves)}", file=sys.stderr if json == "-" else sys.stdout)
    draw(curves, out, conditions)
    if json is not None:
        records.write([record(curves, config, threads, shared)], json)
    return 0


def train_both(config: RunConfig, threads: int) -> Curves:
    """Do the steps of both runs in turn on the same batches; who goes first changes with every step."""
    import torch

    from pipelines.build import build_loader
    from relic import randomness
    from relic.distributed import World
    from relic.plan import make_plan
    from relic.schedules import learning_rate, target_decay
    from relic.state import build_state
    from relic.step import train_step
    from relic.train import all_epochs

    torch.set_num_threads(threads)
    world = World(device=torch.device("cpu"))
    runs = {
        FAST: replace(config, precision="bfloat16", channels_last=True),
        PLAIN: replace(config, precision="float32", channels_last=False),
    }
    states = {name: build_state(run, world, num_classes=0) for name, run in runs.items()}
    loader = build_loader(
        config.data, config.views, batch_size=config.batch_size, seed=config.seed, num_threads=threads
    )
    plan = make_plan(config, num_images=loader.num_images, world_size=1)
    curves = Curves(losses={name: [] for name in runs}, seconds={name: [] for name in runs})
    batches = all_epochs(loader)
    for step in range(plan.total_steps):
        batch = next(batches)
        negatives = randomness.negatives(config, plan, world, step)
        rates = {
            "learning_rate": learning_rate(
                step, base=plan.peak_learning_rate, total_steps=plan.total_steps, warmup_steps=plan.warmup_steps
            ),
            "target_decay": target_decay(step, base=config.optim.target_decay, total_steps=plan.total_steps),
        }
        for name in (FAST, PLAIN) if step % 2 else (PLAIN, FAST):
            start = time.perf_counter()
            metrics = train_step(states[name], batch, negatives, **rates)
            curves.losses[name].append(float(metrics["loss"]))
            curves.seconds[name].append(time.perf_counter() - start)
    batches.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    loader.close()
    return curves


def table(curves: Curves) -> str:
    """Return the losses side by side, and the speeds."""
    lines = [f"{'steps':>9}  {FAST:>24}  {PLAIN:>24}"]
    for number, (fast, plain) in enumerate(zip(curves.smoothed(FAST), curves.smoothed(PLAIN), strict=True)):
        steps = f"{number * SMOOTHING + 1}–{(number + 1) * SMOOTHING}"
        lines.append(f"{steps:>9}  {fast:>24.4f}  {plain:>24.4f}")
    mean, largest = curves.differences()
    ratio, low, high = curves.speed_ratio()
    fast, plain = (1e3 * statistics.median(curves.seconds[name]) for name in (FAST, PLAIN))
    lines += [
        f"\nloss: means of {SMOOTHING} steps differ by {mean:.2%} on average, {largest:.2%} at most",
        f"speed: {fast:,.1f} ms and {plain:,.1f} ms a step, {ratio:.2f} × as fast (median of pairs;"
        f" {low:.2f} to {high:.2f} from the 10th to the 90th percentile)",
    ]
    return "\n".join(lines)


def conditions_line(config: RunConfig, threads: int, machine: dict[str, Any]) -> str:
    """Return what was trained where, in one line."""
    import torch

    large, small = config.views.large, config.views.small
    return (
        f"{config.recipe}, {config.model.backbone}, {large.count}×{large.size} + {small.count}×{small.size} views of"
        f" {config.batch_size} images, {config.duration} on {Path(config.data).name}, {threads} thread(s); torch"
        f" {torch.__version__}, {machine['cpu']}, load {machine['load_average'][0]}"
    )


def draw(curves: Curves, out: Path, conditions: str) -> None:
    """Write both curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, color in ((PLAIN, "#3c3c3c"), (FAST, "#1b6ca8")):
        axes.plot(curves.losses[name], color=color, linewidth=0.5, alpha=0.35)
        middles = [SMOOTHING * (number + 0.5) for number in range(len(curves.smoothed(name)))]
        axes.plot(middles, curves.smoothed(name), color=color, linewidth=1.8, label=name)
    axes.set_xlabel(f"step; bold: means of {SMOOTHING}")
    axes.set_ylabel("loss")
    ratio, _, _ = curves.speed_ratio()
    axes.set_title(f"{FAST} is {ratio:.2f} × as fast as {PLAIN}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.supxlabel(fill(conditions, 130), fontsize=7, color="0.35", x=0.02, ha="left")
    figure.savefig(out, dpi=130)


def record(curves: Curves, config: RunConfig, threads: int, shared: dict[str, Any]) -> dict[str, Any]:
    """Return the record: the ratio of speeds, with both curves."""
    from benchmarks import records

    value, low, high = curves.speed_ratio()
    mean, largest = curves.differences()
    return {
        "benchmark": "precision",
        "provider": FAST,
        "value": value,
        "unit": f"times as fast as {PLAIN}",
        "low": low,
        "high": high,
        "repeats": len(curves.losses[FAST]),
        "threads": threads,
        "recipe": asdict(replace(config, data=Path(config.data).name)),
        "images": {"data": Path(config.data).name},
        "losses": {name: curves.smoothed(name) for name in curves.losses},
        "loss_difference": {"mean": mean, "largest": largest},
        "versions": records.versions(records.ALWAYS),
        **shared,
    }
