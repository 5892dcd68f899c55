#!/usr/bin/env python3
"""Shows where the time of one request goes: stages from /metrics, and CPU time by library from perf.

    benches/profile.py MODELS_DIRECTORY MODEL FILE [CONNECTIONS...]

Needs the release build (`make bench` makes it), and perf, as root or with perf_event_paranoid at most 1. Prints tables in Markdown."""

import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
BINARY = REPOSITORY / "target/release/classifyd"
ADDRESS = "127.0.0.1:8290"
SECONDS = 6

# The part of the program that a symbol belongs to. The first match counts.
PARTS = [
    ("decoding and preprocessing", ("fdeflate", "png::", "image::", "zune", "jpeg", "fast_image_resize", "tokenizers", "crc32", "adler")),
    ("HTTP: hyper, axum, tower", ("hyper", "axum", "http::", "httparse", "tower", "matchit", "http_body", "multer", "serde_urlencoded")),
    ("JSON", ("serde_json", "zmij", "serde", "ryu", "itoa")),
    ("tokio", ("tokio", "mio::")),
    ("metrics", ("prometheus",)),
    ("log", ("tracing",)),
    ("ONNX Runtime's binding", ("ort::", "ort_sys")),
    ("batches and lanes", ("classifyd::batch", "classifyd::engine", "classifyd::model")),
]


def metrics():
    values = {}
    with urllib.request.urlopen(f"http://{ADDRESS}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line and not line.startswith("#"):
                key, value = line.rsplit(" ", 1)
                values[key] = float(value)
    return values


def wait_until_ready(server):
    for _ in range(600):
        if server.poll() is not None:
            sys.exit("the server ended while it started")
        try:
            urllib.request.urlopen(f"http://{ADDRESS}/readyz", timeout=1)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit("the server was not ready within a minute")


def mean_us(before, after, name):
    count = after[name.replace("_sum", "_count")] - before.get(name.replace("_sum", "_count"), 0)
    return (after[name] - before.get(name, 0)) / count * 1e6 if count else 0.0


def cpu_parts(data):
    """The share of each part in the CPU time of the process."""
    report = ["perf", "report", "-i", data, "--no-children", "--sort", "dso,symbol", "-t", "\t", "--percent-limit", "0"]
    lines = subprocess.run(report, capture_output=True, text=True, check=True).stdout.splitlines()
    shares = collections.Counter()
    for line in lines:
        fields = [field.strip() for field in line.split("\t")]
        if line.startswith("#") or len(fields) < 3 or not fields[0].endswith("%"):
            continue
        share, library, symbol = float(fields[0][:-1]), fields[1], fields[2]
        if library == "classifyd":
            part = next((part for part, words in PARTS if any(word in symbol for word in words)), "other code of classifyd")
        elif library.startswith("[kernel"):
            part = "kernel: sockets, wake-ups, switches"
        elif library.startswith("libonnxruntime"):
            part = "ONNX Runtime"
        elif library.startswith("libc"):
            part = "libc: memory and copies, for all of them"
        else:
            part = "other libraries"
        shares[part] += share
    return shares


def measure(model, file, connections, server, directory):
    before = metrics()
    perf = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4999", "-p", str(server.pid), "-o", f"{directory}/perf.data"]
    recording = subprocess.Popen([*perf, "--", "sleep", str(SECONDS + 1)])
    bench = [str(BINARY), "bench", f"http://{ADDRESS}", "--model", model, "--file", file, "--concurrency", str(connections)]
    bench += ["--duration", f"{SECONDS}s", "--warmup", "1s", "--json", f"{directory}/bench.json"]
    subprocess.run(bench, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    recording.wait()
    after = metrics()
    step = json.loads(pathlib.Path(directory, "bench.json").read_text())["steps"][0]

    count = lambda values: values.get('classifyd_http_request_duration_seconds_count{route="/v1/classify"}', 0)
    used = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    cpu_us = used / (count(after) - count(before)) * 1e6
    whole = mean_us(before, after, 'classifyd_http_request_duration_seconds_sum{route="/v1/classify"}')
    stages = {
        stage: mean_us(before, after, f'classifyd_stage_duration_seconds_sum{{model="{model}",stage="{stage}"}}')
        for stage in ("decode", "queue", "inference", "postprocess")
    }
    print(f"\n`{model}`, {connections} connections: {step['throughput']:.0f} answers/s, p50 {step['latency']['p50']:.0f} us at the client\n")
    print("| stage | mean, us |\n|---|--:|")
    for stage, time_us in stages.items():
        print(f"| {stage} | {time_us:.1f} |")
    print(f"| the rest of the server, from the request's head to the answer's | {whole - sum(stages.values()):.1f} |")
    print(f"| reading, writing, kernel, wake-ups, load generator | {max(step['latency']['mean'] - whole, 0):.1f} |")
    print(f"\n| CPU time of the process | us per request |\n|---|--:|")
    shares = cpu_parts(f"{directory}/perf.data")
    for part, share in shares.most_common():
        print(f"| {part} | {share / 100 * cpu_us:.1f} |")
    print(f"| all | {cpu_us:.1f} |")


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    models, model, file = sys.argv[1:4]
    environment = {"ORT_DYLIB_PATH": str(REPOSITORY / ".onnxruntime/libonnxruntime.so.1.31.1"), **os.environ}
    serve = [str(BINARY), "serve", "--models", models, "--listen", ADDRESS, "--drain-delay", "0s"]
    with tempfile.TemporaryDirectory() as directory, open(f"{directory}/server.log", "w") as log:
        server = subprocess.Popen(serve, env=environment, stdout=log, stderr=log)
        try:
            wait_until_ready(server)
            for connections in sys.argv[4:] or ["64", "1"]:
                measure(model, file, int(connections), server, directory)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
