"""Prediction with exported models, and with files that are none; batches with bad images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from bad_files import encode, noise_image, png_with_header_size
from onnx import TensorProto, helper
from PIL import Image

from graft.cli import main
from graft.errors import DataError
from graft.inference import classifier
from graft.inference.classifier import Classifier, predict
from graft.inference.image_files import find_image_files

COLOURS = ["red", "green", "blue"]


def make_model(
    classes: object = COLOURS,
    *,
    image: str = "image",
    image_type: int = TensorProto.UINT8,
    image_shape: tuple[Any, ...] = ("batch", "height", "width", 3),
    output: str = "probabilities",
    colours: int = 3,
    more_outputs: bool = False,
    nan_at: float = -1.0,
) -> onnx.ModelProto:
    """A model of the exported form: the probability of a class is the share of its colour among the mean colours.

    ``nan_at`` is a mean grey level at which its probabilities are not numbers.
    """
    nodes = [
        helper.make_node("Cast", [image], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "sides"], ["means"], keepdims=0),
        helper.make_node("Slice", ["means", "zero", "colours", "one"], ["used"]),
        helper.make_node("Sub", ["used", "nan_at"], ["shifted"]),
        helper.make_node("Div", ["shifted", "shifted"], ["ones"]),  # 0 / 0 at nan_at
        helper.make_node("Mul", ["used", "ones"], ["finite"]),
        helper.make_node("Softmax", ["finite"], [output]),
    ]
    arrays = {"sides": [1, 2], "zero": [0], "colours": [colours], "one": [1]}
    constants = [helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in arrays.items()]
    constants.append(helper.make_tensor("nan_at", TensorProto.FLOAT, [], [nan_at]))
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ("batch", colours))]
    if more_outputs:
        outputs.append(helper.make_tensor_value_info("means", TensorProto.FLOAT, ("batch", 3)))
    inputs = [helper.make_tensor_value_info(image, image_type, image_shape)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if classes is not None:
        text = classes if isinstance(classes, str) else json.dumps(classes)
        helper.set_model_props(model, {"classes": text})
    return model


def save(model: onnx.ModelProto, folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(make_model(), tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """One image of each colour."""
    for name in COLOURS:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (20, 10), name.replace("green", "lime")).save(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


def test_image_gets_the_class_of_its_colour(model: Path, images: Path) -> None:
    for prediction in predict(model, [images]):
        name, probability = prediction.classes[0]
        assert (name, round(probability, 6)) == (prediction.path.stem, 1.0)
        assert not prediction.error


def test_bad_file_is_a_line_with_its_reason_and_the_batch_goes_on(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "empty.png": b"", "page.jpg": b"<html>404</html>", "huge.png": png_with_header_size(60_000, 60_000),
        "cut.jpg": encode(noise_image(), "JPEG")[:900],
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "nothing").mkdir()
    reasons = {
        **dict.fromkeys(files, "cannot be decoded"), "empty.png": "is empty", "pipe.jpg": "is not a regular file",
        "endless.jpg": "is not a regular file", "nothing": "holds no image", "*.webp": "matches no file",
        "missing.png": "cannot be read (No such file or directory)",
    }  # fmt: skip
    bad = [str(tmp_path / name) for name in reasons]
    assert main(["predict", str(model), str(images / "red.png"), *bad, str(images / "blue.png")]) == 1
    output = capsys.readouterr()
    first, *lines, last = output.out.splitlines()
    assert first == f"{images / 'red.png'}\tred 100.0%  green 0.0%  blue 0.0%"
    assert last.startswith(f"{images / 'blue.png'}\tblue 100.0%")
    for line, path, reason in zip(lines, bad, reasons.values(), strict=True):
        assert line.startswith(f"{path}\terror: {reason}")
    assert output.err == "Error: 9 of 11 images could not be classified; their lines say why.\n"


def test_limits_of_bytes_are_those_of_the_check(model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "MAX_FILE_BYTES", 20)
    prediction = Classifier(model).classify(images / "red.png")
    assert re.fullmatch(r"has \d+ bytes, more than the limit of 20", prediction.error)


def test_json_has_one_object_a_line(model: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(model), str(images), "nothing.png", "--json", "--top", "1"]) == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["path"] for record in records] == [
        *(str(images / f"{name}.png") for name in sorted(COLOURS)), "nothing.png",
    ]  # fmt: skip
    assert [record["classes"] for record in records[:3]] == [
        [{"name": name, "probability": pytest.approx(1.0)}] for name in sorted(COLOURS)
    ]
    assert records[3] == {"path": "nothing.png", "error": "cannot be read (No such file or directory)"}


@pytest.mark.parametrize("top", ["0", "-1", "two", "1.5", ""])
def test_top_is_a_positive_whole_number(model: Path, top: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", str(model), "x.png", f"--top={top}"])
    assert "is not a whole number of at least 1" in capsys.readouterr().err


def test_folders_and_globs_name_their_images_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "[1].png", "notes.txt", ".hidden.png", "sub/c.png", "@eaDir/a.jpg", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)

    def names(*arguments: str) -> list[str]:
        files = find_image_files(tmp_path / argument for argument in arguments)
        return [file.problem or file.path.relative_to(tmp_path).as_posix() for file in files]

    assert names(".") == ["[1].png", "a.jpg", "b.PNG", "sub/c.png"]
    assert names("notes.txt", "sub", "*.png", "[1].png", "**/*.png", "[2].png") == [
        "notes.txt", "sub/c.png", "[1].png", "[1].png", "[1].png", "sub/c.png", "matches no file",
    ]  # fmt: skip


def test_text_from_model_and_file_names_is_printed_escaped(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(make_model(["\x1b[2Jcat\tdog", "a\nb\r", "\u202e\x9b31m"]), tmp_path)
    odd = tmp_path / "x\x1b]0;title\x07\ty\n.png"
    (images / "red.png").rename(odd)
    assert main(["predict", str(path), str(odd)]) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path}/x\\x1b]0;title\\x07\\ty\\n.png\t\\x1b[2Jcat\\tdog 100.0%  a\\nb\\r 0.0%  \\u202e\\x9b31m 0.0%\n"
    )
    assert main(["predict", str(path), str(odd) + "\x1b[2J", "--json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["path"] == str(odd) + "\x1b[2J"
    assert main(["predict", "\x1b[2J.onnx", str(odd)]) == 1
    assert not re.search(r"[^\n -~]", output.out + output.err + capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": ["red", "green"]}, r"output is probabilities tensor\(float\) \[\?, 3\] instead of .* \[\?, 2\]"),
        ({"classes": [*COLOURS, "x"]}, r"\[\?, 3\] instead of probabilities tensor\(float\) \[\?, 4\]"),
        ({"classes": None}, "metadata holds no class names"),
        ({"classes": "red, green"}, "metadata holds no class names"),
        ({"classes": "[" * 100_000}, "metadata holds no class names"),
        ({"classes": {"0": "red"}}, "not a list of different texts"),
        ({"classes": [0, 1, 2]}, "not a list of different texts"),
        ({"classes": ["red", "red", "blue"]}, "not a list of different texts"),
        ({"classes": '"red"'}, "not a list of different texts"),
        ({"image": "pixels_\x1b[2J"}, r"input is pixels_\\x1b\[2J tensor\(uint8\)"),
        ({"image_type": TensorProto.FLOAT}, r"input is image tensor\(float\)"),
        ({"image_shape": ("batch", 3, 224, 224)}, r"\[\?, 3, 224, 224\] instead of image tensor\(uint8\) \[\?, \?"),
        ({"image_shape": ("batch", 10, 10, 3)}, r"\[\?, 10, 10, 3\] instead of"),
        ({"output": "logits"}, r"output is logits tensor\(float\) \[\?, 3\] instead of probabilities"),
        ({"more_outputs": True}, r"\[\?, 3\] and means tensor\(float\)"),
        ({"nan_at": 0.0}, "gives something else than 3 probabilities"),
    ],
)
def test_model_of_another_form_is_refused_with_one_sentence(
    changes: dict[str, Any], reason: str, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(make_model(**changes), tmp_path)
    with pytest.raises(DataError, match=r"model\.onnx: is not a model exported by Graft \(.*" + reason):
        Classifier(path)
    assert main(["predict", str(path), str(images)]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)


def damaged_models() -> dict[str, bytes]:
    content = make_model().SerializeToString()
    newer = make_model()
    newer.ir_version = 99
    external = make_model()
    tensor = external.graph.initializer[-1]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    unknown = make_model()
    unknown.graph.node[0].op_type = "Cast\x1b[2J"
    return {
        "empty": b"", "garbage": os.urandom(1000), "text": b"not onnx", "cut": content[: len(content) // 2],
        "newer": newer.SerializeToString(), "external data": external.SerializeToString(),
        "unknown operator": unknown.SerializeToString(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", damaged_models())
def test_file_that_the_runtime_cannot_load_is_refused_with_its_reason(
    kind: str, tmp_path: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(damaged_models()[kind])
    assert main(["predict", str(path), str(images)]) == 1
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"Error: {path}: is not a model")
    assert output.err.removesuffix("\n").isprintable()
    reasons = {"newer": "IR version: 99", "external data": "weights.bin", "unknown operator": r"Cast\x1b[2J"}
    assert reasons.get(kind, "") in output.err


def test_folder_and_missing_file_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder; give the path"):
        Classifier(tmp_path)
    with pytest.raises(DataError, match="is not a file; give"):
        Classifier(tmp_path / "missing.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(DataError, match="is not a file; give"):
        Classifier(tmp_path / "pipe.onnx")


def test_probabilities_that_are_not_numbers_are_an_error_of_that_image(tmp_path: Path, images: Path) -> None:
    Image.new("RGB", (4, 4), (128, 128, 128)).save(images / "grey.png")
    path = save(make_model(nan_at=128.0), tmp_path)
    by_name = {prediction.path.name: prediction for prediction in predict(path, [images])}
    assert by_name["grey.png"].error == "the model gives something else than 3 probabilities"
    assert by_name["red.png"].classes[0][0] == "red"


def start_predict(model: Path, images: Path, **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401
    command = [sys.executable, "-m", "graft.cli", "predict", str(model), *[str(images)] * 300]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def test_reader_that_closes_the_pipe_ends_the_command_quietly(model: Path, images: Path) -> None:
    process = start_predict(model, images, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline().startswith(f"{images / 'blue.png'}\tblue")
    process.stdout.close()
    assert process.stderr
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_full_disk_is_one_sentence(model: Path, images: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = start_predict(model, images, stdout=full)
        assert process.stderr
        assert process.stderr.read() == "Error: the output cannot be written (No space left on device).\n"
        assert process.wait() == 1
