"""The measured examples of docs/techniques: ``python -m benchmarks.reduce [OUT]``.

One run on Fashion-MNIST as in recipes/fashion-mnist.yaml (12,000 training images, seed 0), in bf16 and fp32 files only:
decomposition, width, pruning by several criteria, and distillation with several losses, each beside its from-scratch
control. Prints the table of `edgewise compare`, losses included.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgewise import Opening, read_result, run
from edgewise.progress import for_terminal
from edgewise.recipe import Recipe
from edgewise.report import comparison

from .__main__ import markdown

STUDENT = "student=convnet(8,16,32)"
PLANS = {
    "tucker90": "decompose(0.9)",
    "tucker80-kd": "decompose(0.8, epochs=0) > distill",
    "width50": "width(0.5)",
    "l2": "prune(0.5)",
    "taylor": "prune(0.5, criterion=taylor)",
    "random": "prune(0.5, criterion=random)",
    "taylor-global": "prune(macs=0.25, criterion=taylor, scope=net, round_to=8)",
    "kd": f"distill({STUDENT})",
    "kd-standard": f"distill({STUDENT}, standardize=True)",
    "dkd": f"distill({STUDENT}, loss=dkd)",
    "dist": f"distill({STUDENT}, loss=dist)",
    "similarity": f"distill({STUDENT}, similarity=3000)",
}
"""Name of a variant -> its plan."""


def recipe() -> Recipe:
    """What is run."""
    raw = {
        "name": "reduce",
        "data": {"source": "fashion-mnist", "limit_train": 12000, "limit_val": 2000},
        "model": "convnet(32,64,128, dropout=0.2)",
        "train": {"epochs": 16, "batch_size": 128, "lr": 0.004, "amp": "bf16"},
        "variants": [{"name": name, "plan": plan} for name, plan in PLANS.items()],
        "export": {"precisions": ["fp32"]},
        "explain": False,
    }
    return Recipe.model_validate(raw)


def main(out: Path) -> None:
    """Run it and print the table."""
    argv = ["python", "-m", "benchmarks.reduce", str(out)]
    run(recipe(), out, opening=Opening(force=True, argv=argv), progress=for_terminal())
    result = read_result(out / "results.json")
    print(f"`{result.command}`\n\n{markdown(comparison([result]))}\n")
    for failure in result.failures:
        print(f"failed: {failure.variant}: {failure.reason}")
    print(f"seconds: {json.dumps(result.seconds)}; machine: {result.machine.get('cpu')}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/bench-reduce"))
