"""The same answers in the browser as from onnxruntime in Python: fp32 by logits, every int8 scheme by decisions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser

from edgewise.bundle import CENTER, InputSpec, Manifest, write_bundle
from edgewise.data import Dataset, load_data
from edgewise.device import RUNTIMES
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.desk import calibration_images
from edgewise.export.onnx import SCHEMES
from edgewise.export.web import write_web
from edgewise.models import Model, create_model
from edgewise.recipe import DataOptions, TrainOptions
from edgewise.train import Setup, fit
from tests.web.browser import Visit, served, visit

pytestmark = pytest.mark.slow

FILES = ("fp32", *SCHEMES)
IMAGES = 256
LOGITS = """async ([models, pixels, size, images]) => {
  const { Classifier } = await import(new URL("classifier.js", location).href);
  const facts = await (await fetch("web.json")).json();
  const bytes = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0));
  const answers = {};
  const classifier = new Classifier();
  for (const file of models) {
    await classifier.start({ ...facts, model: { file } });
    answers[file] = [];
    for (let i = 0; i < images; i += 1) {
      const { logits } = await classifier.pixels(bytes.slice(i * size, (i + 1) * size));
      answers[file].push([...logits]);
    }
  }
  return answers;
}"""


@dataclass(frozen=True)
class Trained:
    """A net trained on digits, the images it is asked about, and its model file in each precision and scheme."""

    model: Model
    images: np.ndarray
    files: dict[str, Path]


def write_files(model: Model, dataset: Dataset, folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    calibration = calibration_images(dataset.train, 128, seed=0)
    files = {}
    for name in names:
        precision, scheme = ("fp32", "") if name == "fp32" else ("int8", name)
        files[name] = folder / f"{name}.onnx"
        FORMATS["onnx"].write(model, ExportSpec(precision, folder / "work", scheme, calibration), files[name])
    return files


def in_python(path: Path, images: np.ndarray) -> np.ndarray:
    session = RUNTIMES["onnx"].load(path)
    return np.concatenate([session.scores(images[i : i + 1]) for i in range(len(images))])


def in_browser(seen: Visit, names: tuple[str, ...], images: np.ndarray) -> dict[str, np.ndarray]:
    told: dict[str, Any] = seen.page.evaluate(
        LOGITS,
        [
            [f"{name}.onnx" for name in names],
            base64.b64encode(images.tobytes()).decode(),
            int(np.prod(images.shape[1:])),
            len(images),
        ],
    )
    return {name: np.array(told[f"{name}.onnx"], np.float32) for name in names}


def page_of(model: Model, file: Path, folder: Path, runtime: Path, precision: str = "fp32") -> Path:
    manifest = Manifest(
        "digits", "onnx", precision, "", "model.onnx", model.input, list(model.labels), thresholds={"temperature": 1.5}
    )
    write_bundle(folder / "bundle", manifest, file, {})
    write_web(folder / "bundle", folder / "web", runtime=runtime)
    return folder / "web"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("digits")
    spec = InputSpec(16, 16, 1, mean=(CENTER,), std=(0.5,))
    dataset = load_data(DataOptions(source="digits", duplicates="off"), spec, seed=0)
    model = create_model("convnet(8, 16)", labels=dataset.classes, input=spec, seed=0)
    options = TrainOptions(epochs=6, batch_size=32, lr=0.01, threads=1)
    model = fit(model, dataset, Setup(options, 0, folder / "fit")).model
    return Trained(model, dataset.test.images[:IMAGES], write_files(model, dataset, folder, FILES))


@pytest.fixture(scope="module")
def answers(
    trained: Trained, browser: Browser, unpacked: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Logits of every file in the browser; float32 (IMAGES, classes) each."""
    folder = tmp_path_factory.mktemp("page")
    page = page_of(trained.model, trained.files["fp32"], folder, unpacked)
    for name, path in trained.files.items():
        (page / f"{name}.onnx").write_bytes(path.read_bytes())
    with served(page) as address, visit(browser, address) as seen:
        assert seen.text("#verdict") == "agrees with edgewise"
        yield in_browser(seen, FILES, trained.images)


def test_there_are_enough_images(trained: Trained) -> None:
    assert len(trained.images) >= 200


@pytest.mark.parametrize("name", FILES)
def test_decisions_are_those_of_python(
    name: str, trained: Trained, answers: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = in_python(trained.files[name], trained.images)
    delta = float(np.abs(answers[name] - expected).max())
    same = int((answers[name].argmax(1) == expected.argmax(1)).sum())
    with capsys.disabled():
        print(f"\n{name:12} max |delta logits| {delta:.2g}, {same} of {len(expected)} decisions the same")
    assert len(set(expected.argmax(1))) == 10  # the net tells the digits apart
    assert same == len(expected)
    if name == "fp32":
        assert delta < 1e-3


def test_an_int8_page_checks_itself(trained: Trained, browser: Browser, unpacked: Path, tmp_path: Path) -> None:
    page = page_of(trained.model, trained.files["u8s8-rr"], tmp_path, unpacked, "int8")
    with served(page) as address, visit(browser, address) as seen:
        assert seen.text("#verdict") == "agrees with edgewise"
        found = json.loads(seen.page.locator("#findings").get_attribute("data-found") or "")
        assert found["scaling"]["wrong"] == 0
        assert found["model"]["same"] == found["model"]["cases"] == 4
