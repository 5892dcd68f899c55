#!/usr/bin/env python3
"""Serves the models on a GPU, compares the results with those of the CPU, and benchmarks them against ONNX Runtime alone
and PyTorch. It needs no network, but the built programs, .onnxruntime-gpu/ (scripts/setup_gpu.py), models/ and
benches/models/ (benches/make_models.py). PyTorch is included if the Python has it and the package onnx.

    scripts/gpu_check.py --write                  everything but training; updates docs/performance-gpu.md
    scripts/gpu_check.py --train --data DIR       trains the images classifier on the GPU; reports accuracy and time
    scripts/gpu_check.py --parts sweep --seconds 5
    scripts/gpu_check.py --device cpu --seconds 0.5    tests this script on a machine without a GPU

Parts add to the results in --out, so they can be run one by one. Exits with 1 if a result is wrong.
"""

import argparse
import csv
import datetime
import http.client
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/performance-gpu.md"
PARTS = ("agreement", "raw", "pytorch", "sweep")
BATCHES = (1, 8, 32, 64, 128, 256)
# With the most connections, two of the largest batches run and two wait.
CONNECTIONS = (1, 8, 32, 64, 128, 256, 512, 1024)
# Loading on a GPU takes longer than on a CPU, and TensorRT builds an engine for each shape.
START_S = 900
STOP_S = 60
# The fraction of ONNX Runtime's own throughput that the server should reach.
GOAL = 0.9

# For each variant: configuration keys, options of `raw`, the allowed difference of a score, the
# precision for PyTorch.
VARIANTS = {
    "cpu": ({"device": "cpu"}, ["--device", "cpu"], 1e-3, "float32"),
    "cuda": ({"device": "cuda", "tf32": False}, ["--device", "cuda"], 1e-3, "float32"),
    "cuda-tf32": ({"device": "cuda", "tf32": True}, ["--device", "cuda", "--tf32"], 1e-2, "tf32"),
    "tensorrt": ({"device": "tensorrt"}, ["--device", "tensorrt"], 1e-2, "float32"),
    "tensorrt-fp16": ({"device": "tensorrt", "fp16": True}, ["--device", "tensorrt", "--fp16"], 1e-2, "float16"),
}
OF_DEVICE = {"cpu": ["cpu"], "cuda": ["cuda", "cuda-tf32", "tensorrt", "tensorrt-fp16"]}

# For each load: a model and its input. The bitmap has the model's input size, so decoding it costs
# the CPUs almost nothing.
LOADS = {
    "images": ("images", "models/images/1/golden/airplane_3.png"),
    "resnet18, photo": ("resnet18", "benches/inputs/photo.jpg"),
    "resnet18, bitmap": ("resnet18", None),
}
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".bmp": "image/bmp", ".txt": "text/plain"}


def fail(text):
    sys.exit(f"gpu-check: {text}")


def say(text):
    print(text, file=sys.stderr, flush=True)


def first_line(text):
    """The first line of an error that is not blank."""
    return words(next((line.strip() for line in text.splitlines() if line.strip()), "no message"))


def words(text):
    """An error without details of this machine: directories, lines of a generated configuration and of ONNX Runtime's
    source."""
    text = " ".join(text.split()).replace(f"{ROOT}/", "")
    text = re.sub(r"^(classifyd: )?\S+\.toml:\d+:\d+: \w+: ", "", text)
    text = re.sub(r"^(Error: |model \S+: )", "", text)
    text = re.sub(r"/onnxruntime_src/.*?\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return text[:600]


def bitmap(side):
    """A BMP file with colour ramps. BMP takes the least time to decode."""
    rows = b"".join(bytes((x * 255 // side, y * 255 // side, (x ^ y) & 255)) for y in range(side) for x in range(side))
    header = struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, side, -side, 1, 24, 0, len(rows), 2835, 2835, 0, 0) + rows


def toml(settings):
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


class Gpu:
    """Queries nvidia-smi about one GPU. Returns None on a machine without one."""

    def __init__(self, device_id):
        self.device_id = device_id
        self.program = shutil.which("nvidia-smi")

    def query(self, *fields):
        if not self.program:
            return None
        command = [self.program, f"--id={self.device_id}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        said = subprocess.run(command, capture_output=True, text=True)
        rows = list(csv.reader(said.stdout.splitlines(), skipinitialspace=True))
        return rows[0] if said.returncode == 0 and rows and len(rows[0]) == len(fields) else None

    def number(self, field):
        said = self.query(field)
        return float(said[0]) if said and re.fullmatch(r"[0-9.]+", said[0]) else None


class Watch(threading.Thread):
    """Samples load and memory of the GPU twice a second until stopped."""

    def __init__(self, gpu):
        super().__init__(daemon=True)
        self.gpu, self.ended, self.load, self.memory = gpu, threading.Event(), [], []

    def run(self):
        while self.gpu.program and not self.ended.wait(0.5):
            for field, values in (("utilization.gpu", self.load), ("memory.used", self.memory)):
                said = self.gpu.number(field)
                # Not every GPU and driver reports its load.
                if said is not None:
                    values.append(said)

    def stop(self):
        self.ended.set()
        self.join()
        return (statistics.mean(self.load) if self.load else None, max(self.memory, default=None))


class NotStarted(Exception):
    pass


class Server:
    """Runs classifyd with some models for the length of a `with` block."""

    def __init__(self, check, name, models, settings):
        self.check, self.log = check, check.out / f"{name}.log"
        directory = check.out / "served" / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for model in models:
            (directory / model).symlink_to(check.models[model])
        config = check.out / f"{name}.toml"
        base = {"listen": "127.0.0.1:0", "models": str(directory), "log_format": "json", "drain_delay": "0s", "queue_capacity": 4096}
        config.write_text(toml({**base, "onnxruntime": str(check.library), **settings}))
        self.command = [str(check.binary), "serve", "--config", str(config)]

    def __enter__(self):
        self.memory_before = self.check.gpu.number("memory.used")
        begun = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self.command, stderr=log, env=self.check.environment)
        try:
            self.address = self.wait(begun)
        except BaseException:
            self.end()
            raise
        self.ready_s = time.monotonic() - begun
        after = self.check.gpu.number("memory.used")
        self.memory_mb = None if after is None or self.memory_before is None else after - self.memory_before
        return self

    def wait(self, begun):
        while time.monotonic() - begun < START_S:
            ended = self.process.poll() is not None
            for line in self.log.read_text().splitlines():
                if '"message":"ready"' in line:
                    return json.loads(line)["address"]
            if ended:
                raise NotStarted(self.reason())
            time.sleep(0.02)
        raise NotStarted(f"not ready after {START_S} s")

    def warm_s(self):
        """Seconds from loading ONNX Runtime until the last model has reproduced its golden samples."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        at = {line["message"]: datetime.datetime.fromisoformat(line["timestamp"].rstrip("Z")) for line in lines}
        if not {"ONNX Runtime loaded", "model loaded"} <= at.keys():
            return None
        return (at["model loaded"] - at["ONNX Runtime loaded"]).total_seconds()

    def reason(self):
        """Why it ended: its last log line above level info."""
        lines = [line for line in self.log.read_text().splitlines() if line.strip() and '"level":"INFO"' not in line]
        if not lines:
            return "it ended without a word"
        text = "\n".join(line for line in lines if not line.startswith("{")) or lines[-1]
        return words(text)

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, method, path, body=None, kind=None):
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                fail(f"{method} {path}: status {answer.status}: {text.decode(errors='replace')[:300]}")
            return json.loads(text)
        finally:
            connection.close()

    def models(self):
        return {model["name"]: model for model in self.ask("GET", "/v1/models")["models"]}

    def scores(self, model, labels, file):
        """The scores of a file, by label."""
        path = f"/v1/classify?model={model}&top_k={labels}"
        answer = self.ask("POST", path, file.read_bytes(), TYPES[file.suffix])
        return {entry["label"]: entry["score"] for entry in answer["results"][0]["top"]}


def newest(model):
    """The directory of a model's latest version."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def difference(one, other):
    """The largest difference of a score; infinite if the labels differ."""
    if one.keys() != other.keys():
        return float("inf")
    return max(abs(one[label] - other[label]) for label in one)


def off(one, other):
    """The largest difference of two lists of outputs, relative to the largest output; infinite if they cannot be compared."""
    if len(one) != len(other):
        return float("inf")
    largest = max(abs(a - b) for a, b in zip(one, other)) / max(map(abs, other))
    return float("inf") if largest != largest else largest


class Check:
    def __init__(self, options):
        self.options = options
        self.out = options.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.gpu = Gpu(options.device_id)
        self.variants = options.variants or OF_DEVICE[options.device]
        programs = options.programs or ROOT / "target/release"
        self.binary, self.raw_program, self.trainer = (programs / name for name in ("classifyd", "raw", "trainer"))
        for program in (self.binary, self.raw_program):
            if not program.exists():
                fail(f"expected {program}, found none: cargo build --release -p classifyd -p benches")
        self.library = self.find_library()
        self.loads = {load: LOADS[load] for load in options.loads}
        # One load for each model: the input that is cheaper for the CPUs.
        self.cheapest = {model: load for load, (model, _) in self.loads.items()}
        self.models = self.find_models()
        self.small = self.out / "bitmap.bmp"
        self.small.write_bytes(bitmap(256))
        self.file = self.out / "results.json"
        self.results = json.loads(self.file.read_text()) if self.file.exists() else {}
        nvidia = self.library.parent / "nvidia"
        path = os.environ.get("LD_LIBRARY_PATH")
        # Environment variables would override the generated configuration files.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLASSIFYD_") or name == "CLASSIFYD_CACHE"}
        self.environment = {**kept, "ORT_DISABLE_TELEMETRY": "1", "RUST_BACKTRACE": "0"}
        # The server finds these itself; ONNX Runtime alone does not.
        self.with_libraries = {**self.environment, "LD_LIBRARY_PATH": ":".join(filter(None, [str(nvidia), path]))}

    def find_library(self):
        directory = ROOT / (".onnxruntime" if self.options.device == "cpu" else ".onnxruntime-gpu")
        found = sorted(directory.glob("libonnxruntime.so.*")) or sorted((ROOT / ".onnxruntime-gpu").glob("libonnxruntime.so.*"))
        if not found:
            fail(f"expected ONNX Runtime in {directory}, found none: scripts/setup_gpu.py puts it there")
        return found[-1]

    def find_models(self):
        found = {}
        for directory in (ROOT / "models", ROOT / "benches/models"):
            for model in sorted(directory.glob("*")) if directory.is_dir() else []:
                found.setdefault(model.name, model)
        for model in self.cheapest:
            if model not in found:
                fail(f"expected the model {model} in models/ or benches/models/, found none: benches/make_models.py makes resnet18")
        return found

    def input(self, load):
        given = LOADS[load][1]
        return ROOT / given if given else self.small

    def save(self, part, value):
        self.results[part] = value
        self.results["machine"] = self.machine()
        self.file.write_text(json.dumps(self.results, indent=1) + "\n")

    def machine(self):
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
        gpu = self.gpu.query("name", "memory.total", "driver_version") if self.options.device != "cpu" else None
        return {
            "gpu": gpu and {"name": gpu[0], "memory_mb": gpu[1], "driver": gpu[2]},
            "cpu": cpu,
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "onnxruntime": self.library.name.split(".so.")[1],
            "date": datetime.date.today().isoformat(),
        }

    def settings(self, variant, more=None):
        settings = dict(VARIANTS[variant][0])
        if variant != "cpu":
            settings["device_id"] = self.options.device_id
        if variant.startswith("tensorrt"):
            settings["tensorrt_cache"] = str(self.out / "tensorrt-cache")
        return {**settings, **(more or {})}

    def run(self):
        for part in self.options.parts:
            say(f"== {part}")
            self.save(part, getattr(self, part)())
        if self.options.train:
            say("== train")
            self.save("train", self.train())

    # Results are compared with the trainer's scores, or with the CPU's if there are none.

    def agreement(self):
        reference = self.reference()
        found = []
        for variant in self.variants:
            for model, samples in reference.items():
                entry = {"variant": variant, "model": model}
                found.append(entry)
                # One by one: a model that cannot be served must not hide the others.
                try:
                    with Server(self, f"agreement-{variant}-{model}", [model], self.settings(variant)) as server:
                        described = server.models()[model]
                        worst = max(difference(server.scores(model, len(scores), file), scores) for file, scores in samples)
                except NotStarted as reason:
                    say(f"{variant} {model}: not started: {reason}")
                    entry["error"] = str(reason)
                    continue
                entry.update({
                    "provider": described["provider"],
                    "nodes": described.get("nodes", {}),
                    "samples": len(samples),
                    "difference": worst,
                    "allowed": VARIANTS[variant][2],
                })
                say(f"{variant} {model}: {worst:.2g} off in {len(samples)} samples, {entry['allowed']:g} allowed")
        return found

    def reference(self):
        """Files with their correct scores, by model."""
        golden, others = {}, {}
        for name, directory in self.models.items():
            version = newest(directory)
            listed = version / "golden.json"
            if listed.exists():
                labels = json.loads((version / "config.json").read_text())["id2label"]
                labels = [labels[str(index)] for index in range(len(labels))]
                samples = json.loads(listed.read_text())["samples"]
                golden[name] = [(version / sample["file"], dict(zip(labels, sample["scores"]))) for sample in samples]
            else:
                others[name] = len(json.loads((version / "config.json").read_text())["id2label"])
        if others:
            files = [file for file in (ROOT / "benches/inputs/photo.jpg", self.small) if file.exists()]
            with Server(self, "reference", others, self.settings("cpu")) as server:
                for name, labels in others.items():
                    golden[name] = [(file, server.scores(name, labels, file)) for file in files]
        return golden

    # ONNX Runtime alone.

    def run_raw(self, load, options, batches, seconds):
        model = newest(self.models[self.loads[load][0]])
        command = [str(self.raw_program), str(model), str(self.input(load)), "--onnxruntime", str(self.library), *options]
        command += ["--device-id", str(self.options.device_id), "--batches", ",".join(map(str, batches)), "--seconds", str(seconds)]
        return subprocess.run(command, capture_output=True, text=True, env=self.with_libraries)

    def raw(self):
        found = []
        self.results["decode_us"] = {}
        for load in self.loads:
            said = self.run_raw(load, VARIANTS["cpu"][1], [1], min(1.0, self.options.seconds))
            if said.returncode:
                fail(f"{load}: {first_line(said.stderr)}")
            self.results["decode_us"][load] = json.loads(said.stdout)["decode_us"]
        for variant in self.variants:
            for model, load in self.cheapest.items():
                said = self.run_raw(load, VARIANTS[variant][1], self.options.batches, self.options.seconds)
                if said.returncode:
                    found.append({"variant": variant, "model": model, "error": first_line(said.stderr)})
                    say(f"{variant} {model}: {first_line(said.stderr)}")
                    continue
                measured = json.loads(said.stdout)
                found.append({"variant": variant, "model": model, **measured})
                best = max(measured["runs"], key=lambda run: run["rows_per_second"])
                say(f"{variant} {model}: {best['rows_per_second']:.0f} inputs/s at batch {best['batch']}")
        return found

    # PyTorch, in a separate process, because its libraries and ONNX Runtime's must not mix.

    def pytorch(self):
        found = []
        for precision in dict.fromkeys(VARIANTS[variant][3] for variant in self.variants):
            for model in self.cheapest:
                command = [self.options.python, __file__, "--pytorch", str(newest(self.models[model]) / "model.onnx"), model, precision, self.options.device]
                command += [str(self.options.device_id), str(self.options.seconds), ",".join(map(str, self.options.batches))]
                said = subprocess.run(command, capture_output=True, text=True)
                if said.returncode:
                    reason = said.stderr.strip().splitlines()
                    found.append({"precision": precision, "model": model, "error": reason[-1] if reason else "no message"})
                    say(f"PyTorch {precision} {model}: {found[-1]['error']}")
                    continue
                measured = json.loads(said.stdout)
                found.append({"precision": precision, "model": model, **measured})
                other = self.output(model)
                if other and off(measured["output"], other) > 1e-2:
                    found[-1] = {"precision": precision, "model": model, "error": f"another network: its outputs are {off(measured['output'], other):.2g} off"}
                    say(f"PyTorch {precision} {model}: {found[-1]['error']}")
                    continue
                best = max(found[-1]["runs"], key=lambda run: run["rows_per_second"])
                say(f"PyTorch {precision} {model}: {best['rows_per_second']:.0f} inputs/s at batch {best['batch']}")
        return found

    def output(self, model):
        """The outputs of ONNX Runtime alone for the row that PyTorch also gets."""
        return next((one["output"] for one in self.results.get("raw", []) if one["model"] == model and one.get("output")), None)

    # The server under load.

    def best_batch(self, variant, model):
        """The batch size at which ONNX Runtime alone is fastest, if measured."""
        for one in self.results.get("raw", []):
            if one["variant"] == variant and one["model"] == model and one.get("runs"):
                return max(one["runs"], key=lambda run: run["rows_per_second"])["batch"]
        return 64

    def sweep(self):
        found = []
        for variant in self.variants:
            for load, (model, _) in self.loads.items():
                name = f"sweep-{variant}-{load.replace(', ', '-')}"
                batch = self.best_batch(variant, model)
                entry = {"variant": variant, "load": load, "model": model, "max_batch": batch}
                found.append(entry)
                settings = self.settings(variant, {"max_batch": batch})
                try:
                    if "tensorrt_cache" in settings:
                        # The first start builds the engines; the second loads them from the cache.
                        with Server(self, f"{name}-first", [model], settings) as server:
                            entry["first_ready_s"] = server.ready_s
                    with Server(self, name, [model], settings) as server:
                        entry.update(self.load(server, model, self.input(load)))
                except NotStarted as reason:
                    say(f"{variant} {load}: not started: {reason}")
                    entry["error"] = str(reason)
                    continue
                best = max(entry["steps"], key=lambda step: step["throughput"])
                say(f"{variant} {load}: {best['throughput']:.0f} answers/s at {best['connections']} connections, p50 {best['p50_ms']:.2f} ms")
        return found

    def load(self, server, model, file):
        described = server.models()[model]
        begun = time.monotonic()
        server.scores(model, 1, file)
        first_ms = (time.monotonic() - begun) * 1e3
        steps = []
        for connections in self.options.connections:
            report = self.out / "bench.json"
            command = [str(self.binary), "bench", f"http://{server.address}", "--model", model, "--file", str(file)]
            command += ["--concurrency", str(connections), "--threads", str(self.options.client_threads), "--json", str(report)]
            command += ["--duration", f"{self.options.seconds}s", "--warmup", f"{min(1.0, self.options.seconds)}s"]
            watch = Watch(self.gpu)
            watch.start()
            said = subprocess.run(command, capture_output=True, text=True, env=self.environment)
            gpu_load, gpu_memory = watch.stop()
            if said.returncode:
                fail(f"classifyd bench: {first_line(said.stderr)}")
            [step] = json.loads(report.read_text())["steps"]
            if not step["latency"]:
                fail(f"classifyd bench: no answer within {self.options.seconds} s: expected a longer --seconds")
            good = sum(answered["count"] for status, answered in step["statuses"].items() if status.startswith("2"))
            used = gpu_memory is not None and server.memory_before is not None
            steps.append({
                "connections": connections,
                "throughput": step["throughput"],
                "p50_ms": step["latency"]["p50"] / 1e3,
                "p99_ms": step["latency"]["p99"] / 1e3,
                "batch": step.get("mean_batch_size"),
                "not_answered": step["requests"] - good,
                "client_load": step.get("client_cpu_load"),
                "gpu_load": gpu_load,
                "gpu_memory_mb": gpu_memory - server.memory_before if used else None,
            })
        return {
            "provider": described["provider"],
            "lanes": described["lanes"],
            "ready_s": server.ready_s,
            "warm_s": server.warm_s(),
            "first_ms": first_ms,
            "memory_mb": server.memory_mb,
            "steps": steps,
        }

    # Training.

    def train(self):
        if not self.trainer.exists():
            fail(f"expected {self.trainer}, found none: docs/training.md says how to build it for a GPU")
        environment = {**self.with_libraries, "ORT_DYLIB_PATH": str(self.library)}
        torch = torch_libraries(self.options.python)
        if torch:
            environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [str(torch), environment["LD_LIBRARY_PATH"]]))
            # A trainer linked with a libtorch without CUDA finds CUDA once this library is loaded.
            if self.options.device == "cuda" and (torch / "libtorch_cuda.so").exists():
                environment["LD_PRELOAD"] = str(torch / "libtorch_cuda.so")
        data = ["--data", str(self.options.data)] if self.options.data else []
        target = self.out / "trained/images/1"
        command = [str(self.trainer), "train", "images", "--device", self.options.device, "--restart"]
        command += ["--run", str(self.out / "run"), "--out", str(target), *data, *self.options.train_options.split()]
        log = self.out / "train.log"
        begun = time.monotonic()
        with open(log, "w") as file:
            ended = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
        seconds = time.monotonic() - begun
        if ended:
            return {"error": first_line("\n".join(reversed(log.read_text().splitlines())))}
        figures = self.out / "trained.json"
        command = [str(self.trainer), "evaluate", str(target), "--json", str(figures), *data]
        said = subprocess.run(command, capture_output=True, text=True, env=environment)
        if said.returncode:
            return {"error": first_line(said.stderr)}
        speed = re.findall(r"([0-9]+) samples/s", log.read_text())
        measured = json.loads(figures.read_text())
        result = {
            "command": " ".join(["trainer", *command_for_people(self.options)]),
            "seconds": seconds,
            "accuracy": measured["accuracy"],
            "samples_per_second": int(speed[-1]) if speed else None,
            "card": card_accuracy(),
        }
        say(f"trained in {seconds:.0f} s: {result['accuracy']:.2%}, the model card says {result['card']:.2%}")
        return result

    def wrong(self):
        """Failures: wrong results, another provider than requested, or no GPU at all."""
        wrong = []
        for one in self.results.get("agreement", []):
            if "error" in one:
                # TensorRT is optional; CUDA is required.
                if not one["variant"].startswith("tensorrt"):
                    wrong.append(f"{one['variant']} {one['model']}: {one['error']}")
            elif not one["difference"] <= one["allowed"]:
                wrong.append(f"{one['variant']} {one['model']}: {one['difference']:.2g} off, {one['allowed']:g} allowed")
            elif one["provider"] != VARIANTS[one["variant"]][0]["device"]:
                wrong.append(f"{one['variant']} {one['model']}: runs on {one['provider']}")
        trained = self.results.get("train")
        if trained and "error" in trained:
            wrong.append(f"training: {trained['error']}")
        return wrong


def command_for_people(options):
    return ["train", "images", "--device", options.device, *options.train_options.split()]


def card_accuracy():
    """The accuracy of the shipped images classifier."""
    text = (ROOT / "models/images/1/serving.toml").read_text()
    return float(re.search(r"^accuracy = ([0-9.]+)", text, re.MULTILINE)[1])


def torch_libraries(python):
    """The directory of libtorch in a Python's packages, if it has PyTorch."""
    find = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    try:
        said = subprocess.run([python, "-c", find], capture_output=True, text=True).stdout.strip()
    except OSError:
        return None
    return pathlib.Path(said) / "lib" if said else None


# PyTorch


def pytorch(file, model, precision, device, device_id, seconds, batches):
    """Measures the same network in PyTorch's eager mode, with the weights of the graph, and prints the times."""
    import onnx
    import torch
    import torch.nn.functional as F
    from onnx import numpy_helper

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU")
    place = torch.device(device, int(device_id)) if device == "cuda" else torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    kind = torch.float16 if precision == "float16" else torch.float32
    graph = onnx.load(file).graph
    numbers = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    layers = []
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight, bias = (numbers[name].to(place, kind) for name in node.input[1:3])
            layers.append((weight.to(memory_format=torch.channels_last) if weight.dim() == 4 else weight, bias))
    shape = [axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim][1:]

    def resnet18(x):
        weights = iter(layers)

        def convolution(x, stride=1):
            weight, bias = next(weights)
            return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

        x = F.max_pool2d(F.relu(convolution(x, 2)), 3, 2, 1)
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage and not block else 1
                shortcut = x if stride == 1 else convolution(x, 2)
                x = F.relu(convolution(F.relu(convolution(x, stride))) + shortcut)
        return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), *next(weights))

    def images(x):
        weights = iter(layers)
        x = torch.cat([x, x.flip(3)])
        x = F.gelu(F.conv2d(x, *next(weights)))
        for number in range(6):
            x = F.conv2d(x, *next(weights), padding=1)
            x = F.gelu(F.max_pool2d(x, 2) if number % 2 == 0 else x)
        x = F.linear(F.max_pool2d(x, 3).flatten(1), *next(weights)) * numbers["factor_12"].to(place, kind)
        return x.view(2, -1, x.shape[-1]).mean(0)

    network = {"resnet18": resnet18, "images": images}[model]
    runs = []
    with torch.inference_mode():
        for batch in map(int, batches.split(",")):
            rows = torch.randn(batch, *shape)
            host = rows.pin_memory() if device == "cuda" else rows

            def run():
                x = host.to(place, non_blocking=True).to(kind, memory_format=torch.channels_last)
                # Copying the result back waits for the run.
                return network(x).float().cpu()

            for _ in range(5):
                run()
            durations, end = [], time.perf_counter() + float(seconds)
            while time.perf_counter() < end or len(durations) < 3:
                begun = time.perf_counter()
                run()
                durations.append(time.perf_counter() - begun)
            median = statistics.median(durations)
            runs.append({"batch": batch, "median_us": median * 1e6, "rows_per_second": batch / median})
        # The input of `raw`, to verify that this is the same network.
        check = network(torch.full((1, *shape), 0.5).to(place, kind, memory_format=torch.channels_last)).float().cpu()[0].tolist()
    print(json.dumps({"version": torch.__version__, "runs": runs, "output": check}))


# The page


def cell(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}".replace(",", "") if isinstance(value, (int, float)) else str(value)


def table(head, rows):
    align = "|".join("---" if not index else "--:" for index in range(len(head)))
    return "\n".join([f"| {' | '.join(head)} |", f"|{align}|", *(f"| {' | '.join(row)} |" for row in rows)])


def best_of(entries, **wanted):
    """The fastest run of the entry with these values, or None if not measured."""
    for entry in entries or []:
        if all(entry.get(key) == value for key, value in wanted.items()):
            return max(entry.get("runs") or [], key=lambda run: run["rows_per_second"], default=None)
    return None


def markdown(results):
    """The results as Markdown, for the page."""
    machine = results["machine"]
    gpu = machine["gpu"]
    device = f"{gpu['name']}, {gpu['memory_mb']} MB, driver {gpu['driver']}" if gpu else "no GPU"
    parts = [f"{device}; {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; ONNX Runtime {machine['onnxruntime']}; {machine['date']}. The load generator runs on the same cores."]

    if results.get("agreement"):
        rows, errors = [], {}
        for one in results["agreement"]:
            if "error" in one:
                errors.setdefault((one["variant"], one["error"]), []).append(one["model"])
            else:
                nodes = ", ".join(f"{place} {count}" for place, count in sorted(one["nodes"].items())) or "-"
                off = "" if one["difference"] <= one["allowed"] else " **too much**"
                rows.append([one["variant"], one["model"], nodes, str(one["samples"]), f"{one['difference']:.1e}{off}", f"{one['allowed']:g}"])
        parts += ["### The same answers", "Largest difference of a score from the golden samples, and where a model has none, from the CPU.", table(["served with", "model", "nodes of its graph", "samples", "difference", "allowed"], rows)]
        parts += [not_started(errors)] if errors else []

    if results.get("sweep"):
        rows, starts, ratios, errors = [], [], [], {}
        for one in results["sweep"]:
            if "error" in one:
                errors.setdefault((one["variant"], one["error"]), []).append(one["load"])
                continue
            for step in one["steps"]:
                rows.append([
                    one["variant"], one["load"], str(step["connections"]), cell(step["throughput"]), cell(step["p50_ms"], 2), cell(step["p99_ms"], 2),
                    cell(step["batch"], 1), cell(step["gpu_load"]), cell(step["client_load"], 2), cell(step["not_answered"]),
                ])
            peak = max((step["gpu_memory_mb"] or 0 for step in one["steps"]), default=0) or None
            starts.append([one["variant"], one["load"], cell(one["lanes"]), cell(one["max_batch"]), cell(one.get("first_ready_s"), 1), cell(one["ready_s"], 1), cell(one["warm_s"], 1), cell(one["first_ms"], 1), cell(one["memory_mb"]), cell(peak)])
            ratios.append(ratio_row(results, one))
        if rows:
            parts += ["### Throughput and latency", table(["served with", "load", "connections", "answers/s", "p50 ms", "p99 ms", "inputs per batch", "GPU load %", "load generator, cores", "not answered"], rows)]
            parts += [
                "### Beside ONNX Runtime alone and PyTorch",
                f"Inputs per second: the server's best, ONNX Runtime alone from host memory to host memory at its best batch and the better of two ways to choose convolutions, and PyTorch in eager mode with the same weights. `CPUs can decode` is what all cores could decode if they did nothing else. The goal is {GOAL:g} of ONNX Runtime alone.",
                table(["served with", "load", "server", "ONNX Runtime", "batch", "ratio", "PyTorch", "batch", "ratio", "CPUs can decode"], ratios),
                "### Start and memory",
                "From the start of the process until it says that it is ready; GPU memory by nvidia-smi, more than before the start.",
                table(["served with", "load", "lanes", "max_batch", "first start, engines built, s", "start to ready, s", "of it loading, warm-up, proof, s", "first answer, ms", "GPU memory when ready, MB", "at most under load, MB"], starts),
            ]
        if errors:
            parts.append(not_started(errors))
    notes = [f"* ONNX Runtime alone, {one['variant']}, {one['model']}: {one['error']}" for one in results.get("raw", []) if "error" in one]
    notes += [f"* PyTorch, {one['precision']}, {one['model']}: {one['error']}" for one in results.get("pytorch", []) if "error" in one]
    if notes:
        parts += ["Not measured:", "\n".join(notes)]

    trained = results.get("train")
    if trained:
        parts.append("### Training")
        if "error" in trained:
            parts.append(f"Failed: {trained['error']}")
        else:
            speed = f", {trained['samples_per_second']} samples/s in the last epoch" if trained["samples_per_second"] else ""
            parts.append(f"`{trained['command']}` took {trained['seconds']:.0f} s, export and evaluation of the export included{speed}: {trained['accuracy']:.2%} of the test images right; the model card says {trained['card']:.2%}.")
    return "\n\n".join(parts) + "\n"


def not_started(errors):
    """Lists what could not be served, by variant and reason."""
    return "\n".join(f"* {variant} ({'; '.join(served)}): not started: {reason}" for (variant, reason), served in errors.items())


def ratio_row(results, one):
    server = max(step["throughput"] for step in one["steps"])
    raw = best_of(results.get("raw"), variant=one["variant"], model=one["model"])
    torch = best_of(results.get("pytorch"), precision=VARIANTS[one["variant"]][3], model=one["model"])
    decode = results.get("decode_us", {}).get(one["load"])
    shown = [one["variant"], one["load"], cell(server)]
    for other in (raw, torch):
        shown += [cell(other["rows_per_second"]), cell(other["batch"]), cell(server / other["rows_per_second"], 2)] if other else ["-", "-", "-"]
    return [*shown, cell(results["machine"]["cores"] * 1e6 / decode) if decode else "-"]


def write(text, page, marker="gpu-check"):
    """Replaces the text between the page's markers."""
    begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    whole = page.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(begin) > whole.index(end):
        fail(f"{page.name}: expected the markers {begin} and {end}, once each")
    before, rest = whole.split(begin)
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}")


def numbers(text):
    found = [int(part) for part in text.split(",")]
    if any(number < 1 for number in found):
        raise argparse.ArgumentTypeError(f"expected numbers of at least 1, found {text}")
    return found


def main():
    if sys.argv[1:2] == ["--pytorch"]:
        pytorch(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu only tests this script")
    parser.add_argument("--device-id", type=int, default=0, help="the number of the GPU")
    parser.add_argument("--variants", type=lambda text: text.split(","), help=f"some of {', '.join(VARIANTS)}; default: those of the device")
    parser.add_argument("--parts", type=lambda text: text.split(",") if text else [], default=list(PARTS), help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--loads", type=lambda text: text.split(";"), default=list(LOADS), help=f"some of {'; '.join(LOADS)}, separated by semicolons; default: all")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each measurement")
    parser.add_argument("--batches", type=numbers, default=list(BATCHES), help="batch sizes for ONNX Runtime alone and PyTorch")
    parser.add_argument("--connections", type=numbers, default=list(CONNECTIONS), help="numbers of connections of the load generator")
    parser.add_argument("--client-threads", type=int, default=2, help="threads of the load generator")
    parser.add_argument("--programs", type=pathlib.Path, help="directory with classifyd, raw and trainer; default: target/release")
    parser.add_argument("--python", default=sys.executable, help="Python with PyTorch and onnx")
    parser.add_argument("--train", action="store_true", help="also train the images classifier")
    parser.add_argument("--data", type=pathlib.Path, help="directory with the files of CIFAR-10; default: the trainer's own")
    parser.add_argument("--train-options", default="", help="more options for trainer train images")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches/results/gpu-check", help="directory for results, logs and TensorRT's cache")
    parser.add_argument("--write", action="store_true", help=f"write the results into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    chosen = (("--parts", options.parts, PARTS), ("--variants", options.variants or [], VARIANTS), ("--loads", options.loads, LOADS))
    for name, given, known in chosen:
        for one in given:
            if one not in known:
                parser.error(f"{name}: expected one of {'; '.join(known)}, found {one}")
    if options.write and options.device == "cpu":
        parser.error("--write: expected figures of a GPU, found --device cpu")
    if options.device == "cuda" and Gpu(options.device_id).query("name") is None:
        fail(f"nvidia-smi shows no GPU {options.device_id}: expected one, or --device cpu to test this script")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Each connection is an open file in the server and in the load generator.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 8192), hard))
    check = Check(options)
    check.run()
    text = markdown(check.results)
    (check.out / "report.md").write_text(text)
    print(text)
    if options.write:
        write(text, PAGE)
    wrong = check.wrong()
    if wrong:
        fail("; ".join(wrong))


if __name__ == "__main__":
    main()
