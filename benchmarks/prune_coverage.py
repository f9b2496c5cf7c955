"""Which timm nets can be pruned by half and still export: ``python -m benchmarks.prune_coverage [NAME ...]``.

Each net is made with random weights and batch norm statistics, pruned by 50 % (`prune(0.5)`, no training), written as
ONNX and run in onnxruntime on random images; the file must agree with torch to 1e-3 in every logit, and to 1e-3 of how
far the images spread the logits. The nets are those of
the published stitching table and 20 more of its families. What comes out is a Markdown table; with ``--json FILE`` the
rows are kept, and nets that stand in the file already are not done again, so that the table can be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress.prune import PruneOptions, remove_channels
from edgewise.device.ort import OrtRuntime
from edgewise.errors import ConfigError, EdgewiseError
from edgewise.export.base import ExportSpec
from edgewise.export.onnx import OnnxExporter
from edgewise.models import Model, create_model
from edgewise.models.cost import cost
from edgewise.train import logits

TABLE = Path(__file__).parents[1] / "tests" / "models" / "stitching_table.json"
MORE = (
    *("mobilenetv1_125", "mobilenetv2_035", "mobilenetv2_075", "mobilenetv2_110d", "mobilenetv2_140"),
    *("mobilenetv3_small_075", "mobilenetv3_large_075", "mobilenetv4_conv_large", "mobilenetv4_hybrid_large"),
    *("repghostnet_058", "repghostnet_100", "repghostnet_130", "ghostnet_050", "ghostnet_130"),
    *("lcnet_050", "lcnet_075", "tinynet_c", "tinynet_d", "mixnet_l", "mixnet_xl"),
)
SIDE = 96
CLASSES = 11
LIMIT = 1e-3


def names() -> list[str]:
    """The 40 nets."""
    return [row["model"] for row in json.loads(TABLE.read_text(encoding="utf-8"))] + list(MORE)


def make(name: str) -> Model:
    """The net with batch norms that are not the identity, so that a mistake in them shows, and whose statistics are
    those of random images, so that what goes in still shows in what comes out."""
    spec = InputSpec(SIDE, SIDE)
    model = create_model(name, labels=[f"class {index}" for index in range(CLASSES)], input=spec)
    generator = torch.Generator().manual_seed(0)
    norms = [layer for layer in model.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.weight.data.copy_(torch.rand(layer.weight.shape, generator=generator) + 0.5)
        layer.bias.data.copy_(torch.rand(layer.bias.shape, generator=generator) - 0.2)
        layer.momentum = 1.0  # the statistics of the one batch below
    model.module.train()
    with torch.no_grad():
        model.module(torch.randn(16, 3, SIDE, SIDE, generator=generator))
    for layer in norms:
        layer.momentum = 0.1
    model.module.eval()
    return model


def parity(model: Model, folder: Path) -> tuple[float, float]:
    """The largest difference of a logit between torch and the ONNX file in onnxruntime, over 8 random images; and the
    same as a share of how far the images spread the logits, since an untrained net's may hardly differ."""
    path = folder / "model.onnx"
    OnnxExporter().write(model, ExportSpec("fp32", folder / "work"), path)
    images = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
    found = OrtRuntime().load(path, threads=1).scores(images)
    expected = logits(model, images)
    delta = float(np.abs(found - expected).max())
    return delta, delta / float(np.ptp(expected, axis=0).max())


def row(name: str) -> dict[str, Any]:
    """One line of the table."""
    started, said = time.perf_counter(), []
    result: dict[str, Any] = {"net": name}
    try:
        model = make(name)
        before = cost(model.module, model.input)
        pruned = remove_channels(model, PruneOptions(ratio=0.5), said.append)
        after = cost(pruned.module, pruned.input)
        result["params"] = after.params_total / before.params_total
        result["macs"] = after.macs / before.macs
        with tempfile.TemporaryDirectory() as folder:
            result["delta"], result["relative"] = parity(pruned, Path(folder))
    except ConfigError as problem:
        result["reason"] = f"{problem.what}: {problem.why}"
    except EdgewiseError as problem:
        result["reason"] = f"{problem.code} {problem.what}: {problem.why}"
    result["left"] = said[0].partition(": ")[2].split("; ") if said else []
    result["seconds"] = round(time.perf_counter() - started, 1)
    return result


def passes(result: dict[str, Any]) -> bool:
    """Whether the net was pruned and its file agrees."""
    return bool(result.get("delta", 1) < LIMIT and result["relative"] < LIMIT)


def markdown(results: list[dict[str, Any]]) -> str:
    """The table, and how many nets pass."""
    lines = [
        "| net | parameters | MACs | largest difference | of the spread | left alone, or why not |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        left = result["left"]
        note = result.get("reason") or (f"{len(left)} sets, e.g. {left[0]}" if left else "")
        figures = [f"{result[key]:.3f}" if key in result else "" for key in ("params", "macs")]
        deltas = [f"{result[key]:.1e}" if key in result else "" for key in ("delta", "relative")]
        lines.append(f"| {result['net']} | {' | '.join(figures + deltas)} | {note} |")
    lines.append(f"\n{sum(map(passes, results))} of {len(results)} nets prune by half and agree with their ONNX file.")
    return "\n".join(lines)


def main() -> None:
    """Do the nets named, or all that are left to do, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further net after so long")
    arguments = parser.parse_args()
    kept = arguments.json if arguments.json and arguments.json.exists() else None
    done = {one["net"]: one for one in json.loads(kept.read_text(encoding="utf-8"))} if kept else {}
    started = time.monotonic()
    wanted = arguments.names or names()
    for name in wanted:
        if name in done or time.monotonic() - started > 60 * arguments.minutes:
            continue
        done[name] = row(name)
        print(json.dumps(done[name])[:300], flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(list(done.values()), indent=1), encoding="utf-8")
    print(markdown([done[name] for name in wanted if name in done]))


if __name__ == "__main__":
    main()
