"""What the walk through an ONNX file sees, against the onnx package, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny import Edit, outside, write_model

from edgewise.device.onnxfile import MAX_DEPTH, BadModel, check_model, read_model
from edgewise.device.protobuf import MAX_FIELDS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return onnx.load(write_model(tmp_path_factory.mktemp("tiny") / "m.onnx"))


def refused(model: onnx.ModelProto, edit: Edit) -> BadModel:
    """What is said of the model after a change."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    edit(changed)
    with pytest.raises(BadModel) as caught:
        check_model(changed.SerializeToString())
    return caught.value


def test_it_reads_what_onnx_reads(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="edgewise.labels", value='["röd"]')
    facts = check_model(model.SerializeToString())
    assert facts["input"] == ("image", TensorProto.UINT8, [None, 8, 8, 3])
    assert facts["output"] == ("logits", TensorProto.FLOAT, [None, 3])
    assert facts["opsets"] == {one.domain: one.version for one in model.opset_import}
    assert facts["metadata"] == {"edgewise.labels": '["röd"]'}


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "weights.bin", "C:\\x", "\0"])
def test_data_outside_the_file(model: onnx.ModelProto, location: str) -> None:
    problem = refused(model, outside(location))
    assert problem.code == "U62"
    assert repr(location) in str(problem)


def test_data_outside_the_file_is_found_wherever_a_tensor_can_stand(model: onnx.ModelProto) -> None:
    def tensor() -> TensorProto:
        made = numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
        made.ClearField("raw_data")
        made.external_data.add(key="location", value="/etc/passwd")  # without data_location: still refused
        return made

    def branch(depth: int) -> onnx.GraphProto:
        node = helper.make_node("Constant", [], ["c"], value=tensor())
        if depth:
            node = helper.make_node("If", ["c"], ["c"], then_branch=branch(depth - 1), else_branch=branch(depth - 1))
        return helper.make_graph([node], "inner", [], [])

    sparse = onnx.SparseTensorProto(values=tensor())
    opset = [helper.make_opsetid("", 13)]
    constant = helper.make_node("Constant", [], ["c"], value=tensor())
    places: list[Edit] = [
        lambda m: m.graph.node.append(constant),
        lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse)),
        lambda m: m.graph.sparse_initializer.append(sparse),
        lambda m: m.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch(3))),
        lambda m: m.functions.append(helper.make_function("", "F", [], ["c"], [constant], opset)),
    ]
    assert [refused(model, place).code for place in places] == ["U62"] * len(places)


def domain(name: str, operator: str = "ReduceMean") -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.node[1].domain, model.graph.node[1].op_type = name, operator

    return edit


@pytest.mark.parametrize("edit", [domain("evil.ops"), domain("com.microsoft", "EPContext"), domain("ai.onnx.training")])
def test_foreign_operators(model: onnx.ModelProto, edit: Edit) -> None:
    assert refused(model, edit).code == "U64"


def dims(*shape: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = shape

    return edit


def made_by(operator: str, shape: list[int], *, constant: bool) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        stored = numpy_helper.from_array(np.array(shape, np.int64), "shape")
        if constant:
            model.graph.node.append(helper.make_node("Constant", [], ["shape"], value=stored))
        else:
            model.graph.initializer.append(stored)
        inputs = ["shape"] if operator == "ConstantOfShape" else ["image", "shape"]
        model.graph.node.append(helper.make_node(operator, inputs, ["huge"]))

    return edit


def value(*shape: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, shape))

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        dims(10**6, 10**6),
        dims(-1, 3),
        value(10**6, 10**6),
        *(
            made_by(op, [10**6, 10**6], constant=c)
            for op in ("ConstantOfShape", "Expand", "Tile")
            for c in (True, False)
        ),
    ],
)
def test_tensors_of_a_million_million_elements(model: onnx.ModelProto, edit: Edit) -> None:
    problem = refused(model, edit)
    assert problem.code == "U65"
    assert "1000000000000 elements" in str(problem) or "[-1, 3]" in str(problem)


def test_a_tensor_holds_what_its_shape_says(model: onnx.ModelProto) -> None:
    problem = refused(model, dims(3, 4))
    assert (problem.code, str(problem)) == ("U61", "tensor 'weights' of 12 elements has 36 bytes")


def ends(kind: int, shape: list[int | str], *, output: bool = False) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        values = model.graph.output if output else model.graph.input
        values[0].CopyFrom(helper.make_tensor_value_info(values[0].name, kind, shape))

    return edit


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    "edit",
    [
        ends(TensorProto.FLOAT, ["n", 8, 8, 3]),
        ends(TensorProto.UINT8, [8, 8, 3]),
        ends(TensorProto.UINT8, ["n", 3, 8, 8]),
        ends(TensorProto.UINT8, ["n", 3], output=True),
        ends(TensorProto.FLOAT, ["n", 3, 1, 1], output=True),
        two_inputs,
        lambda m: m.graph.ClearField("output"),
    ],
)
def test_what_does_not_take_pictures(model: onnx.ModelProto, edit: Edit) -> None:
    assert refused(model, edit).code == "U63"


def test_weights_among_the_inputs_are_no_inputs(model: onnx.ModelProto) -> None:
    """So wrote exporters before IR version 4."""
    older = onnx.ModelProto()
    older.CopyFrom(model)
    older.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [3, 3]))
    assert check_model(older.SerializeToString())["input"][0] == "image"


def test_graphs_in_graphs_end_somewhere(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "g", [], [])
    for _ in range(MAX_DEPTH + 2):
        inner = helper.make_graph([helper.make_node("If", ["c"], ["d"], then_branch=inner)], "g", [], [])
    node = helper.make_node("If", ["c"], ["d"], then_branch=inner)
    problem = refused(model, lambda m: m.graph.node.append(node))
    assert (problem.code, "deep" in str(problem)) == ("U61", True)


def test_a_million_fields_are_not_counted_to_the_end() -> None:
    with pytest.raises(BadModel, match="fields in a message"):
        check_model(b"\x08\x01" * (MAX_FIELDS + 1))


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x08", b"<html></html>", b"\xff" * 99]
)
def test_what_is_no_protobuf(data: bytes) -> None:
    with pytest.raises(BadModel) as caught:
        check_model(data)
    assert caught.value.code == "U61"


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_harmless_but_never_anything_else(model: onnx.ModelProto, data: st.DataObject) -> None:
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        facts = check_model(bytes(content[: data.draw(st.integers(1, len(content)))]))
    except BadModel:
        return
    assert len(facts["input"][2]) == 4


def test_only_plain_files_of_a_sane_size_are_read(tmp_path: Path) -> None:
    plain = tmp_path / "m.onnx"
    plain.write_bytes(b"abc")
    assert read_model(str(plain)) == b"abc"
    (tmp_path / "link.onnx").symlink_to(plain)
    os.mkfifo(tmp_path / "pipe.onnx")
    with (tmp_path / "large.onnx").open("wb") as stream:
        stream.truncate(3 << 30)
    for name, why in (("link", "symbolic link"), ("pipe", "a pipe"), ("large", "3221225472 bytes, more than")):
        with pytest.raises(BadModel, match=why) as caught:
            read_model(str(tmp_path / f"{name}.onnx"))
        assert caught.value.code == "U60"
    with pytest.raises(BadModel, match="a folder"):
        read_model(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        read_model(str(tmp_path / "missing.onnx"))
