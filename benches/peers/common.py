"""The parts that all peers share: the model directory, preprocessing with Pillow as in Hugging Face, ONNX Runtime, the response.

The peers differ only in how they serve.
"""

import io
import json
import os
import pathlib

import numpy as np
import onnxruntime
from PIL import Image

TOP = 5


class Settings:
    """Settings from peers/run.sh."""

    def __init__(self):
        self.port = int(os.environ["PEER_PORT"])
        self.directory = pathlib.Path(os.environ["PEER_MODEL"])
        self.connections = int(os.environ["PEER_CONNECTIONS"])
        cores = len(os.sched_getaffinity(0))
        # A model of this size takes milliseconds, so its runs go to a thread pool, and a lone run uses all cores.
        self.heavy = (self.directory / "model.onnx").stat().st_size > 10_000_000
        lone = self.connections < cores
        self.workers = int(os.environ.get("PEER_WORKERS", 1 if lone else cores))
        self.threads = int(os.environ.get("PEER_THREADS", cores if lone and self.heavy else 1))
        # Larger batches pay off only if a run of many rows costs little more than a run of one.
        batch = 1 if lone or self.heavy else min(self.connections // self.workers, 32)
        self.batch = int(os.environ.get("PEER_BATCH", batch))


class Classifier:
    def __init__(self, directory, threads):
        self.name = directory.parent.name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            directory / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name
        config = json.loads((directory / "config.json").read_text())
        self.labels = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
        steps = json.loads((directory / "preprocessor_config.json").read_text())
        if steps.get("do_fit_ink"):
            raise SystemExit("this model wants do_fit_ink, which only classifyd does")
        self.mode = "L" if steps.get("do_convert_grayscale") else "RGB"
        self.size = steps["size"]
        self.resample = steps.get("resample", 2)
        self.crop = steps["crop_size"] if steps.get("do_center_crop") else None
        scale = np.float32(steps.get("rescale_factor", 1 / 255))
        normalize = steps.get("do_normalize", "image_mean" in steps)
        mean = np.array(steps["image_mean"] if normalize else [0.0], np.float32)
        std = np.array(steps["image_std"] if normalize else [1.0], np.float32)
        # (x * scale - mean) / std in one multiplication and one subtraction.
        self.factor = (scale / std).reshape(-1, 1, 1)
        self.offset = (mean / std).reshape(-1, 1, 1)

    def decode(self, body):
        """Decodes an image and makes a row for the graph."""
        return self.preprocess(Image.open(io.BytesIO(body)))

    def preprocess(self, image):
        """Makes a row for the graph."""
        if image.mode != self.mode:
            image = image.convert(self.mode)
        width, height = image.size
        if "shortest_edge" in self.size:
            edge = self.size["shortest_edge"]
            target = (edge, edge * height // width) if width <= height else (edge * width // height, edge)
        else:
            target = (self.size["width"], self.size["height"])
        if target != image.size:
            image = image.resize(target, self.resample)
        if self.crop:
            left = (image.width - self.crop["width"]) // 2
            top = (image.height - self.crop["height"]) // 2
            image = image.crop((left, top, left + self.crop["width"], top + self.crop["height"]))
        pixels = np.asarray(image)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return pixels * self.factor - self.offset

    def run(self, rows):
        """Runs the graph and makes a response for each row."""
        logits = self.session.run(None, {self.input: np.stack(rows)})[0]
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        return [self.answer(row) for row in scores]

    def answer(self, scores):
        best = np.argpartition(scores, -TOP)[-TOP:]
        best = best[np.argsort(-scores[best])]
        top = [{"label": self.labels[i], "score": float(scores[i])} for i in best]
        return {"model": self.name, "version": "1", "results": [{**top[0], "top": top}]}

    def classify(self, body):
        return self.run([self.decode(body)])[0]
