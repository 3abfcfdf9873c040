"""`python -m benchmarks COMMAND`: finds the command, lets tyro parse its flags, turns errors into one line."""

from __future__ import annotations

import difflib
import importlib
import sys

from relic.flags import OK, WRONG_USE, run

PROG = "python -m benchmarks"
COMMANDS = {
    "views": ("views", "who makes the views of an image how fast: our engine and other libraries"),
    "decode": ("views", "bare JPEG decoding, the unit of comparison"),
    "loader": ("loader", "a whole loader: images/s, stages, memory, first batch"),
    "growth": ("growth", "what rendering costs as images, views, their side and the blur grow"),
    "loss": ("loss", "time and memory of the fused loss and of its reference, and how they grow"),
    "step": ("step", "what an optimisation step costs beyond the networks' own forward and backward pass"),
    "precision": ("precision", "bfloat16 and channels-last against float32 and NCHW: speed, and the loss side by side"),
    "kernels": ("kernels", "registers and spills of the Triton kernels on GPUs that need not be here"),
    "gpu-budget": ("gpu_budget", "what the kernels cost a GPU per image, on paper: bytes, operations, least times"),
    "convert": ("convert", "conversion against a plain copy of the same files; --soak: memory and time over very many"),
    "masks": ("masks", "what masks bring: pretraining with and without them, judged on misleading backgrounds"),
    "scaling": ("scaling", "a step on 8 to 512 GPUs on paper: what bounds it, with every assumption"),
    "compare": ("compare", "two files of records; exit code 1 where a provider became slower"),
    "plot": ("plot", "bar chart of a file of records"),
}
"""Command -> module, which has a function of that name, and what it does."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0 (ok), 1 (failed) or 2 (wrong use)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(f"usage: {PROG} COMMAND [--help] ...\n")
        print("\n".join(f"  {name:<10} {summary}" for name, (_, summary) in COMMANDS.items()))
        return OK
    name, *rest = arguments
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"one of {', '.join(COMMANDS)}"
        print(f"{PROG}: error: no command {name!r}: {hint}", file=sys.stderr)
        return WRONG_USE
    function = getattr(importlib.import_module(f"benchmarks.{COMMANDS[name][0]}"), name.replace("-", "_"))
    return run(function, rest, prog=f"{PROG} {name}")


if __name__ == "__main__":
    sys.exit(main())
