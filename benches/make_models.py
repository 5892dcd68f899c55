"""Writes the model directories and the inputs of the comparison, into benches/models/ and benches/inputs/.

mlp: 784-128-64-10, takes microseconds. resnet18: ResNet-18 of 224 x 224, batch normalisation folded into the
convolutions, takes milliseconds. Both have random weights: their results mean nothing, but their cost is real.

Usage: benches/.venv/bin/python benches/make_models.py [--digit FILE] [--photo FILE]
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BENCHES = pathlib.Path(__file__).resolve().parent
MODELS = BENCHES / "models"
INPUTS = BENCHES / "inputs"


class Graph:
    """Nodes and weights, in the order in which they are added."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes = []
        self.weights = []

    def node(self, kind, inputs, **attributes):
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, shape, fan_in):
        """He's initialisation: keeps the outputs of a deep network finite, and none of them denormal."""
        values = self.random.normal(0.0, np.sqrt(2.0 / fan_in), shape).astype(np.float32)
        return self.constant(values)

    def constant(self, values):
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def bias(self, size):
        return self.constant(self.random.normal(0.0, 0.1, size).astype(np.float32))

    def linear(self, x, inputs, outputs):
        return self.node("Gemm", [x, self.weight((outputs, inputs), inputs), self.bias(outputs)], transB=1)

    def convolution(self, x, inputs, outputs, side, stride):
        weight = self.weight((outputs, inputs, side, side), inputs * side * side)
        pad = side // 2
        return self.node(
            "Conv", [x, weight, self.bias(outputs)], kernel_shape=[side] * 2, strides=[stride] * 2, pads=[pad] * 4
        )

    def relu(self, x):
        return self.node("Relu", [x])

    def model(self, row, logits, labels):
        self.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        graph = helper.make_graph(
            self.nodes,
            "classifier",
            [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", *row])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])],
            self.weights,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="classifyd-benches"
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def mlp():
    graph = Graph(seed=1)
    x = graph.node("Flatten", ["pixel_values"])
    x = graph.relu(graph.linear(x, 784, 128))
    x = graph.relu(graph.linear(x, 128, 64))
    return graph.model([1, 28, 28], graph.linear(x, 64, 10), 10)


def resnet18():
    graph = Graph(seed=2)
    x = graph.relu(graph.convolution("pixel_values", 3, 64, 7, 2))
    x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, width in enumerate([64, 128, 256, 512]):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = x if stride == 1 else graph.convolution(x, channels, width, 1, stride)
            x = graph.relu(graph.convolution(x, channels, width, 3, stride))
            x = graph.convolution(x, width, width, 3, 1)
            x = graph.relu(graph.node("Add", [x, shortcut]))
            channels = width
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])])
    return graph.model([3, 224, 224], graph.linear(x, 512, 1000), 1000)


def write(name, model, labels, preprocessor):
    directory = MODELS / name / "1"
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "model.onnx")
    config = {"id2label": {str(i): label for i, label in enumerate(labels)}, "problem_type": "single_label_classification"}
    for file, content in [("config.json", config), ("preprocessor_config.json", preprocessor)]:
        (directory / file).write_text(json.dumps(content, indent=2) + "\n")
    print(directory)


def digit(given):
    """A digit of MNIST's test set."""
    root = BENCHES.parent
    for pattern in ["tests/fixtures/digits/*.png", "models/digits/*/golden/*.png"]:
        found = sorted(root.glob(pattern))
        if not given and found:
            # The goals are set for this size.
            given = min(found, key=lambda file: abs(file.stat().st_size - 300))
    if not given:
        sys.exit("no digit found in tests/fixtures/digits: name an image with --digit")
    shutil.copyfile(given, INPUTS / "digit.png")
    print(INPUTS / "digit.png")


def photo(given):
    """The photo of a flower, 640 x 427, in scikit-learn's wheel."""
    target = INPUTS / "photo.jpg"
    if given:
        shutil.copyfile(given, target)
    elif not target.exists():
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*command, "--no-deps", "--dest", directory, "scikit-learn==1.9.1"], check=True)
            [wheel] = pathlib.Path(directory).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                target.write_bytes(archive.read("sklearn/datasets/images/flower.jpg"))
    print(target)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--digit", type=pathlib.Path, help="image of a digit; default: one of the fixtures")
    arguments.add_argument("--photo", type=pathlib.Path, help="jpeg photo; default: scikit-learn's flower.jpg")
    arguments = arguments.parse_args()
    INPUTS.mkdir(parents=True, exist_ok=True)
    write(
        "mlp",
        mlp(),
        [str(i) for i in range(10)],
        {
            "do_convert_grayscale": True,
            "do_resize": True,
            "size": {"height": 28, "width": 28},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": False,
        },
    )
    write(
        "resnet18",
        resnet18(),
        [f"class {i}" for i in range(1000)],
        {
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": 256},
            "resample": 2,
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    )
    digit(arguments.digit)
    photo(arguments.photo)


if __name__ == "__main__":
    main()
