"""`python -m benchmarks step`: what an optimisation step costs beyond the networks' own forward and backward pass."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from relic.config import RunConfig

NETWORKS, STEP = "networks", "step"
PIECES = ("normalise and cast", "loss", "gradient norm", "optimizer", "target network", "metrics")
METRICS = ("loss", "contrastive", "invariance", "gradient_norm", "finite")


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Seconds of every piece in every round."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds of a piece."""
        return statistics.median(self.seconds[name])

    def overhead(self) -> tuple[float, float, float]:
        """Return the share of the step that is not the networks' own work: median, lowest, highest over the rounds."""
        pairs = zip(self.seconds[STEP], self.seconds[NETWORKS], strict=True)
        shares = [(step - networks) / step for step, networks in pairs]
        return statistics.median(shares), min(shares), max(shares)


def step(
    backbone: str = "resnet50",
    batch_size: int = 32,
    large_count: int = 4,
    large_size: int = 96,
    small_count: int = 2,
    small_size: int = 48,
    negatives: int = 10,
    precision: Literal["float32", "bfloat16"] = "float32",
    optimizer: Literal["lars", "sgd", "adamw"] = "lars",
    concatenate: bool = False,
    channels_last: bool = True,
    compile: bool = False,
    threads: int = 1,
    repeats: int = 7,
    json: str | None = None,
) -> int:
    """Time `relic.step.train_step` against the forward and backward passes it holds, round by round, on the CPU.

    "networks" is: the online network on all views, the target network on the large ones, and the backward pass from a
    given gradient of the outputs. The other pieces of the step are timed alone, on the step's own tensors.

    Args:
        backbone: Name of the backbone; the heads are the paper's (4096, 256).
        batch_size: Images.
        large_count, large_size: Large views and their side in pixels.
        small_count, small_size: Small views and their side in pixels.
        negatives: Negatives per image.
        precision: Autocast dtype.
        optimizer: Which.
        concatenate: One forward pass for all views of a size.
        channels_last: Memory layout of images and weights.
        compile: Run the networks through torch.compile.
        threads: Threads of torch.
        repeats: Rounds; one more goes first, unmeasured.
        json: File for the records, - for standard output (the table then goes to standard error).
    """
    from benchmarks import machine, records
    from relic import cores

    if repeats < 1:
        raise ValueError(f"repeats {repeats}: give at least 1")
    if not 2 <= negatives + 1 <= batch_size:
        raise ValueError(f"negatives {negatives}: give 1 to {batch_size - 1}, the other images of a batch")
    if threads > cores.available():
        raise ValueError(f"threads {threads}: this process may use {cores.available()} cores; give at most that")
    records.check_target(json)
    config = configuration(
        backbone, batch_size, (large_count, large_size), (small_count, small_size), negatives, precision, optimizer,
        concatenate=concatenate, channels_last=channels_last, compile=compile,
    )  # fmt: skip
    shared = records.conditions(machine.describe())
    rounds = measure(pieces(config, threads), repeats)
    out = sys.stderr if json == "-" else sys.stdout
    print(conditions_line(config, threads, repeats, shared["machine"]), file=out)
    print(f"\n{table(rounds)}", file=out)
    if json is not None:
        records.write([record(rounds, config, threads, shared)], json)
    return 0


def configuration(
    backbone: str,
    batch_size: int,
    large: tuple[int, int],
    small: tuple[int, int],
    negatives: int,
    precision: Any,
    optimizer: Any,
    **options: bool,
) -> RunConfig:
    """Return the run whose step is measured."""
    from pipelines.config import CropConfig, ViewsConfig
    from relic.config import LossConfig, ModelConfig, OptimConfig, RunConfig

    return RunConfig(
        recipe="benchmark",
        batch_size=batch_size,
        precision=precision,
        device="cpu",
        compile=options["compile"],
        channels_last=options["channels_last"],
        views=ViewsConfig(
            large=CropConfig(count=large[0], size=large[1]), small=CropConfig(count=small[0], size=small[1])
        ),
        model=ModelConfig(backbone=backbone, concatenate_views=options["concatenate"]),
        loss=LossConfig(num_negatives=negatives),
        optim=OptimConfig(name=optimizer),
    )


def pieces(config: RunConfig, threads: int) -> dict[str, Callable[[], object]]:
    """Return the step, the networks' own work, and the other parts of the step, each as a function to time."""
    import torch

    from pipelines.contract import Batch
    from relic.distributed import Group, World
    from relic.losses import draw_negatives, relic_loss
    from relic.models.twin import Twin
    from relic.models.views import run_views
    from relic.optim.groups import clip_gradients
    from relic.precision import autocast
    from relic.state import build_state
    from relic.step import normalized, train_step

    torch.set_num_threads(threads)
    world = World(device=torch.device("cpu"))
    state = build_state(config, world, num_classes=0)
    assert isinstance(state.model, Twin)
    twin, size, views = state.model, config.batch_size, config.views
    generator = torch.Generator().manual_seed(0)

    def made(count: int, side: int) -> list[torch.Tensor]:
        return [torch.randint(0, 256, (size, side, side, 3), generator=generator).byte() for _ in range(count)]

    batch = Batch(
        index=torch.arange(size),
        label=torch.zeros(size, dtype=torch.int64),
        large=made(views.large.count, views.large.size),
        small=made(views.small.count, views.small.size),
    )
    table = torch.from_numpy(draw_negatives(size, config.loss.num_negatives or 1, seed=0, step=0))
    rates = {"learning_rate": 1e-3, "target_decay": 0.996}
    train_step(state, batch, [table], **rates)  # the gradients and buffers that the pieces work on
    large, small = normalized(batch.large, state), normalized(batch.small, state)
    number = len(large) + len(small)
    dim = config.model.projection_dim
    given = torch.empty(number, size, dim).normal_(generator=generator)
    online = torch.empty(number, size, dim).normal_(generator=generator).requires_grad_()
    target = torch.empty(len(large), size, dim).normal_(generator=generator)
    weights = {name: getattr(config.loss, name) for name in ("temperature", "contrastive_weight", "invariance_weight")}
    meter = _meter(config, Group(world))

    def networks() -> None:
        state.optimizer.zero_grad(set_to_none=True)
        with autocast(state.precision, state.device):
            outputs = state.forward(large, small)
            with torch.no_grad():
                run_views(twin.target, large, concatenate=config.model.concatenate_views)
        outputs.backward(given.to(outputs.dtype))

    return {
        NETWORKS: networks,
        STEP: lambda: meter.add(0, train_step(state, batch, [table], **rates)),
        "normalise and cast": lambda: (normalized(batch.large, state), normalized(batch.small, state)),
        "loss": lambda: torch.autograd.grad(relic_loss(online, target, table, **weights).total, online),
        "gradient norm": lambda: clip_gradients(state.trained, None),
        "optimizer": state.optimizer.step,
        "target network": lambda: twin.update_target(0.996),
        "metrics": lambda: meter.add(0, {name: torch.ones(()) for name in METRICS}),
    }


def _meter(config: RunConfig, group: Any) -> Any:
    from relic.plan import make_plan
    from relic.telemetry import Meter

    class Waiting:
        def stats(self) -> dict[str, float]:
            return {}

    plan = make_plan(config, num_images=100 * config.batch_size, world_size=1)
    return Meter(plan, Waiting(), group)  # pyright: ignore[reportArgumentType] - a meter asks a loader for this only


def measure(functions: dict[str, Callable[[], object]], repeats: int) -> Rounds:
    """Time all pieces in rounds, so that a busy machine's noise hits all alike; networks and step change places."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(repeats + 1):
        names = list(functions)
        if number % 2:
            names[0], names[1] = names[1], names[0]
        for name in names:
            start = time.perf_counter()
            functions[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return Rounds(seconds=seconds)


def table(rounds: Rounds) -> str:
    """Return what the step is made of."""
    whole = rounds.median(STEP)
    share, low, high = rounds.overhead()
    lines = [f"{'':<20} {'ms':>10}  share of the step"]
    for name in (STEP, NETWORKS, *PIECES):
        lines.append(f"{name:<20} {1e3 * rounds.median(name):>10,.1f}  {rounds.median(name) / whole:>6.2%}")
    known = sum(rounds.median(name) for name in (NETWORKS, *PIECES))
    lines.append(f"{'not accounted for':<20} {1e3 * (whole - known):>10,.1f}  {1 - known / whole:>6.2%}")
    lines.append(f"\nstep minus networks: {share:.2%} of the step (median of the rounds; {low:.2%} to {high:.2%})")
    return "\n".join(lines)


def conditions_line(config: RunConfig, threads: int, repeats: int, machine: dict[str, Any]) -> str:
    """Return what was measured where, in one line."""
    import torch

    large, small = config.views.large, config.views.small
    layout = "channels-last" if config.channels_last else "NCHW"
    return (
        f"{config.model.backbone}, {large.count}×{large.size} + {small.count}×{small.size} views of"
        f" {config.batch_size} images, {config.precision}, {layout}, {config.optim.name},"
        f" {'one pass per size' if config.model.concatenate_views else 'a pass per view'}, {threads} thread(s),"
        f" {repeats} rounds; torch {torch.__version__}, {machine['cpu']}, load {machine['load_average'][0]}"
    )


def record(rounds: Rounds, config: RunConfig, threads: int, shared: dict[str, Any]) -> dict[str, Any]:
    """Return the record: the share of the step that is not the networks' own work."""
    from benchmarks import records

    value, low, high = rounds.overhead()
    return {
        "benchmark": "step",
        "provider": "train_step",
        "value": value,
        "unit": "share of the step beside the networks' own forward and backward",
        "low": low,
        "high": high,
        "repeats": len(rounds.seconds[STEP]),
        "threads": threads,
        "recipe": asdict(config),
        "images": {"count": config.batch_size, "kind": "random"},
        "milliseconds": {name: 1e3 * rounds.median(name) for name in rounds.seconds},
        "versions": records.versions(records.ALWAYS),
        **shared,
    }
