"""The tables of docs/models.md are what the code counts. `python -m tests.models.test_docs` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgewise.bundle import InputSpec
from edgewise.compress.prune import PruneOptions, remove_channels
from edgewise.models import create_model
from edgewise.models.cost import ModelCost, cost

from .stitching import PUBLISHED, TRAINING_MODE

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
SYSTEMS = (
    ("1", "convnet(32,64,128, dropout=0.2)", 2, 128, None),
    ("1", "convnet(24,48,96, dropout=0.1)", 2, 128, None),
    ("1", "convnet(8,16,32)", 2, 128, None),
    ("1", "pruned 0.3: 22, 44, 89", 2, 128, 0.3),
    ("1", "pruned 0.5: 16, 32, 64", 2, 128, 0.5),
    ("1", "pruned 0.7: 9, 19, 38", 2, 128, 0.7),
    ("2", "truncate(shufflenet_v2_x0_5, stage3)", 9, 64, None),
    ("2", "truncate(shufflenet_v2_x0_5, stage3)", 9, 32, None),
)


def count(architecture: str, classes: int, size: int, ratio: float | None = None) -> ModelCost:
    labels = [str(index) for index in range(classes)]
    model = create_model(architecture, labels=labels, input=InputSpec(size, size))
    if ratio is not None:
        model = remove_channels(model, PruneOptions(ratio=ratio))
    return cost(model.module, model.input)


def systems_table() -> str:
    lines = ["| System | Model | Image | Classes | Parameters | MACs |", "|---|---|---|---|---|---|"]
    for system, name, classes, size, ratio in SYSTEMS:
        counted = count(SYSTEMS[0][1] if ratio else name, classes, size, ratio)
        shown = name if ratio else f"`{name}`"
        lines.append(
            f"| {system} | {shown} | {size} x {size} | {classes} | {counted.params_total:,} | {counted.macs:,} |"
        )
    return "\n".join(lines)


def stitching_table() -> str:
    lines = ["| Model | Parameters | MB | MACs | Published operations |", "|---|---|---|---|---|"]
    for row in PUBLISHED:
        counted = count(row["model"], 11, 224)
        star = " *" if row["model"] in TRAINING_MODE else ""
        lines.append(
            f"| {row['model']} | {counted.params_total:,} | {counted.size_bytes / 2**20:.4f} "
            f"| {counted.macs:,} | {row['ops_published']:,}{star} |"
        )
    return "\n".join(lines)


TABLES = {"systems": systems_table, "stitching": stitching_table}


def block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- table: {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("name", ["systems", pytest.param("stitching", marks=pytest.mark.slow)])
def test_the_tables_in_the_docs_are_what_the_code_counts(name: str) -> None:
    found = block(name).search(DOCS.read_text(encoding="utf-8"))
    assert found is not None
    assert found[2] == TABLES[name]() + "\n"


if __name__ == "__main__":
    text = DOCS.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = block(name).sub(rf"\g<1>{table()}\n\g<3>", text)
    DOCS.write_text(text, encoding="utf-8")
