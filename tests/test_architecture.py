"""Model names checked from source files: nothing that a library knows is refused, and what is refused is told alike."""

from __future__ import annotations

import pytest
import timm
import torchvision

from edgewise.architecture import check_architecture, format_architecture, parse_architecture
from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError
from edgewise.models import create_model, list_models
from edgewise.registered import mentions, registered

SPEC = InputSpec(32, 32)


def test_the_names_read_from_the_files_are_those_the_libraries_list() -> None:
    assert registered("timm") == set(timm.list_models())
    assert registered("torchvision") == set(torchvision.models.list_models(module=torchvision.models))


def test_no_model_that_can_be_made_is_refused() -> None:
    entries = list_models()
    assert len(entries) > 1000
    for entry in entries[::25]:
        check_architecture(entry.name)
    check_architecture("timm/resnet50.a1_in1k")
    check_architecture("truncate(shufflenet_v2_x0_5, stage3)")
    assert all(mentions("timm", name) for name in timm.list_models()[::50])


@pytest.mark.parametrize(
    "name",
    [
        "resnet999",
        "convnt",
        "timm/resnet999",
        "torchvision/resnet999",
        "mobilenetv3_smal_050",
        "resnet9999.a1_in1k",
        "truncate(resnet999, layer1)",
        "truncate(resnet18)",
        "convnet(8, dropuot=0.1)",
        "convnet(0)",
        "flatnet",
        "dscnn(8, 16, strides=(1,))",
        "resnet18(",
    ],
)
def test_what_is_refused_early_is_told_as_by_the_libraries(name: str) -> None:
    with pytest.raises(ConfigError) as early:
        check_architecture(name)
    with pytest.raises(ConfigError) as late:
        create_model(name, labels=("a", "b"), input=SPEC)
    assert str(early.value) == str(late.value)


def test_without_sources_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewise.registered._sources", lambda library: ())
    check_architecture("resnet999")


def test_a_name_is_written_as_it_is_read() -> None:
    assert format_architecture(parse_architecture("timm/resnet18")) == "timm/resnet18"
