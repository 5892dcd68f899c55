#!/usr/bin/env python3
"""Tests of setup_gpu.py, gpu_check.py and gpu-pack.sh that need no GPU, no network and no build."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import zipfile
from unittest import mock

SCRIPTS = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))
sys.dont_write_bytecode = True
import gpu_check  # noqa: E402
import setup_gpu  # noqa: E402

MACHINE = {
    "gpu": {"name": "Example GPU", "memory_mb": "16384", "driver": "580.1"},
    "cpu": "Example CPU",
    "cores": 4,
    "kernel": "6.1",
    "onnxruntime": "1.31.1",
    "date": "2026-01-02",
}


def step(connections, throughput, **more):
    step = {"connections": connections, "throughput": throughput, "p50_ms": 1.5, "p99_ms": 3.25, "batch": 12.04, "not_answered": 0}
    return {**step, "client_load": 0.5, "gpu_load": 80.0, "gpu_memory_mb": 900.0, **more}


def sweep(variant="cuda", load="images", model="images", steps=()):
    entry = {"variant": variant, "load": load, "model": model, "max_batch": 64, "provider": "cuda", "lanes": 2}
    return {**entry, "ready_s": 4.2, "warm_s": 3.5, "first_ms": 3.0, "memory_mb": 700.0, "steps": list(steps)}


class Report(unittest.TestCase):
    def test_the_best_results_are_compared(self):
        results = {
            "machine": MACHINE,
            "decode_us": {"images": 50.0},
            "raw": [
                {
                    "variant": "cuda",
                    "model": "images",
                    "runs": [
                        {"batch": 1, "rows_per_second": 500.0},
                        {"batch": 64, "rows_per_second": 10000.0},
                        {"batch": 128, "rows_per_second": 9000.0},
                    ],
                }
            ],
            "pytorch": [{"precision": "float32", "model": "images", "runs": [{"batch": 32, "rows_per_second": 4000.0}]}],
            "sweep": [sweep(steps=[step(1, 300.0), step(128, 9200.4), step(256, 9100.0)])],
        }
        text = gpu_check.markdown(results)
        self.assertIn("Example GPU, 16384 MB, driver 580.1; Example CPU, 4 cores", text)
        self.assertIn("2026-01-02", text)
        self.assertIn("| cuda | images | 128 | 9200 | 1.50 | 3.25 | 12.0 | 80 | 0.50 | 0 |", text)
        # 9200.4 of 10000 and of 4000; four cores decode 80000 a second.
        self.assertIn("| cuda | images | 9200 | 10000 | 64 | 0.92 | 4000 | 32 | 2.30 | 80000 |", text)
        self.assertIn("| cuda | images | 2 | 64 | - | 4.2 | 3.5 | 3.0 | 700 | 900 |", text)

    def test_an_unmeasured_value_is_a_dash(self):
        bare = step(1, 10.0, batch=None, client_load=None, gpu_load=None, gpu_memory_mb=None)
        text = gpu_check.markdown({"machine": {**MACHINE, "gpu": None}, "sweep": [{**sweep(steps=[bare]), "memory_mb": None}]})
        self.assertIn("no GPU;", text)
        self.assertIn("| cuda | images | 1 | 10 | 1.50 | 3.25 | - | - | - | 0 |", text)
        self.assertIn("| cuda | images | 10 | - | - | - | - | - | - | - |", text)
        self.assertIn("| 4.2 | 3.5 | 3.0 | - | - |", text)
        self.assertNotIn("### Training", text)
        self.assertNotIn("### The same answers", text)

    def test_the_page_says_why_a_variant_did_not_start(self):
        results = {
            "machine": MACHINE,
            "agreement": [{"variant": "tensorrt", "model": model, "error": "no libnvinfer"} for model in ("digits", "images")],
            "raw": [{"variant": "tensorrt", "model": "images", "error": "no library"}],
            "sweep": [{"variant": "tensorrt", "load": "images", "model": "images", "max_batch": 64, "error": "no libnvinfer"}],
        }
        text = gpu_check.markdown(results)
        self.assertIn("* tensorrt (digits; images): not started: no libnvinfer", text)
        self.assertIn("* tensorrt (images): not started: no libnvinfer", text)
        self.assertIn("* ONNX Runtime alone, tensorrt, images: no library", text)

    def test_too_large_a_difference_is_shown_and_fails(self):
        entry = {"variant": "cuda", "model": "digits", "provider": "cuda", "nodes": {"cuda": 9, "cpu": 1}, "samples": 20}
        good, bad = {**entry, "difference": 2e-7, "allowed": 1e-3}, {**entry, "difference": 2e-3, "allowed": 1e-3}
        text = gpu_check.markdown({"machine": MACHINE, "agreement": [good, bad]})
        self.assertIn("| cuda | digits | cpu 1, cuda 9 | 20 | 2.0e-07 | 0.001 |", text)
        self.assertIn("2.0e-03 **too much**", text)
        check = mock.Mock(results={"agreement": [good]})
        self.assertEqual(gpu_check.Check.wrong(check), [])
        # Not a number is never right; neither is the CPU in a GPU's place.
        for entry in (bad, {**good, "difference": float("nan")}, {**good, "provider": "cpu"}, {"variant": "cuda", "model": "digits", "error": "no driver"}):
            check.results = {"agreement": [entry]}
            self.assertEqual(len(gpu_check.Check.wrong(check)), 1, entry)
        check.results = {"agreement": [{"variant": "tensorrt", "model": "digits", "error": "not on this machine"}], "train": {"error": "no data"}}
        self.assertEqual(gpu_check.Check.wrong(check), ["training: no data"])

    def test_the_training_result_is_compared_with_the_model_card(self):
        trained = {"command": "trainer train images --device cuda", "seconds": 61.4, "accuracy": 0.9351, "samples_per_second": 40000, "card": 0.934}
        text = gpu_check.markdown({"machine": MACHINE, "train": trained})
        self.assertIn("`trainer train images --device cuda` took 61 s", text)
        self.assertIn("93.51% of the test images right; the model card says 93.40%", text)

    def test_the_page_changes_only_between_its_markers(self):
        with tempfile.TemporaryDirectory() as directory:
            page = pathlib.Path(directory, "page.md")
            page.write_text("before\n<!-- gpu-check: begin -->\nold\n<!-- gpu-check: end -->\nafter\n")
            for text in ("one\n", "two\n"):
                gpu_check.write(text, page)
                self.assertEqual(page.read_text(), f"before\n<!-- gpu-check: begin -->\n{text}<!-- gpu-check: end -->\nafter\n")
            page.write_text("no markers")
            with self.assertRaises(SystemExit):
                gpu_check.write("three", page)
            self.assertEqual(page.read_text(), "no markers")

    def test_the_shipped_page_has_the_markers(self):
        text = gpu_check.PAGE.read_text()
        self.assertEqual((text.count("<!-- gpu-check: begin -->"), text.count("<!-- gpu-check: end -->")), (1, 1))


class Pieces(unittest.TestCase):
    def test_a_bitmap_has_the_size_in_its_header(self):
        data = gpu_check.bitmap(256)
        self.assertEqual(len(data), 54 + 256 * 256 * 3)
        self.assertEqual(int.from_bytes(data[2:6], "little"), len(data))

    def test_the_difference_is_infinite_if_labels_differ(self):
        self.assertAlmostEqual(gpu_check.difference({"a": 0.5, "b": 0.5}, {"a": 0.25, "b": 0.75}), 0.25)
        self.assertEqual(gpu_check.difference({"a": 1.0}, {"b": 1.0}), float("inf"))

    def test_errors_lose_details_of_this_machine(self):
        said = f"classifyd: {gpu_check.ROOT}/out/a.toml:7:1: device: model digits: CUDA on GPU 0 cannot be used: no driver"
        self.assertEqual(gpu_check.words(said), "CUDA on GPU 0 cannot be used: no driver")
        said = f"Error: /onnxruntime_src/a/b.cc:2043 onnxruntime::Provider& Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load {gpu_check.ROOT}/lib.so"
        self.assertEqual(gpu_check.words(said), "Failed to load lib.so")

    def test_the_latest_version_is_the_highest_number(self):
        with tempfile.TemporaryDirectory() as directory:
            for version in ("2", "10", "notes"):
                pathlib.Path(directory, version).mkdir()
            self.assertEqual(gpu_check.newest(pathlib.Path(directory)).name, "10")

    def test_the_difference_of_outputs_is_relative(self):
        self.assertAlmostEqual(gpu_check.off([10.0, -1.0], [10.0, -2.0]), 0.1)
        for other in ([1.0], [float("nan"), 1.0]):
            self.assertEqual(gpu_check.off([1.0, 1.0], other), float("inf"))

    def test_settings_are_toml(self):
        self.assertEqual(gpu_check.toml({"device": "cuda", "tf32": True, "max_batch": 8}), 'device = "cuda"\ntf32 = true\nmax_batch = 8\n')


class Libraries(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def group(self, package):
        return next(group for group in setup_gpu.GROUPS if group.package == package)

    def touch(self, directory, *names):
        (self.directory / directory).mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.directory / directory / name).write_text("")
        return self.directory / directory

    def test_an_incomplete_cudnn_does_not_count(self):
        cudnn = self.group("nvidia-cudnn-cu13")
        half = self.touch("half", "libcudnn.so.9", "libcudnn_ops.so.9")
        whole = self.touch("whole", *cudnn.wanted)
        self.assertEqual(setup_gpu.find(cudnn, [half]), [])
        self.assertEqual({file.parent for file in setup_gpu.find(cudnn, [half, whole])}, {whole})

    def test_companion_files_of_a_library_are_included(self):
        nvrtc = self.touch("cuda", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libcufft.so.11")
        names = [file.name for file in setup_gpu.find(self.group("nvidia-cuda-nvrtc"), [nvrtc])]
        self.assertEqual(names, ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"])

    def test_links_are_replaced(self):
        curand = self.group("nvidia-curand")
        target = self.touch("target")
        (target / "libcurand.so.10").symlink_to(self.directory / "gone")
        setup_gpu.link(setup_gpu.find(curand, [self.touch("new", "libcurand.so.10")]), target)
        self.assertEqual((target / "libcurand.so.10").resolve(), self.directory.resolve() / "new/libcurand.so.10")
        # What lies there already stays a file.
        setup_gpu.link(setup_gpu.find(curand, [self.directory / "new"]), self.directory / "new")
        self.assertFalse((self.directory / "new/libcurand.so.10").is_symlink())

    def test_the_loader_cache_and_the_environment_name_directories(self):
        cache = "\tlibcudart.so.13 (libc6,x86-64) => /opt/cuda/lib64/libcudart.so.13\n\tlibz.so.1 (libc6,x86-64) => /lib/libz.so.1\n"
        self.assertEqual(setup_gpu.cached_directories(cache), ["/opt/cuda/lib64"])
        directories = setup_gpu.system_directories({"CUDA_HOME": "/opt/toolkit", "LD_LIBRARY_PATH": "/a::/b"})
        self.assertEqual(directories[:4], ["/a", "/b", "/opt/toolkit/lib64", "/opt/toolkit/targets/x86_64-linux/lib"])

    def test_the_packages_of_a_python_are_found(self):
        lib = self.touch("nvidia/cu13/lib", "libcurand.so.10")
        with mock.patch.dict(os.environ, {"PYTHONPATH": str(self.directory)}):
            self.assertIn(lib, setup_gpu.python_directories(sys.executable))
        self.assertEqual(setup_gpu.python_directories("/no/python"), [])

    def test_only_libraries_are_unpacked_from_a_wheel(self):
        wheel = self.directory / "nvidia_curand-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in ("nvidia/cu13/lib/libcurand.so.10", "nvidia/cu13/include/curand.h", "nvidia_curand-1.dist-info/License.txt"):
                archive.writestr(name, name)
        target = self.touch("out")
        setup_gpu.unpack(wheel, self.group("nvidia-curand"), target)
        self.assertEqual(sorted(file.name for file in target.iterdir()), ["LICENSE.nvidia-curand", "libcurand.so.10"])
        with self.assertRaises(SystemExit):
            setup_gpu.unpack(wheel, self.group("nvidia-cufft"), target)

    def test_every_library_that_may_be_fetched_is_pinned(self):
        fetched = [group.package for group in setup_gpu.GROUPS if not group.package.startswith("TensorRT")]
        for line in setup_gpu.requirements(fetched):
            self.assertRegex(line, r"^[a-z0-9-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}$")

    def test_unresolved_libraries_are_named(self):
        said = "\tlibcuda.so.1 => not found\n\tlibz.so.1 => /lib/libz.so.1 (0x0)\n\tlibcublas.so.13 => not found\n\tlibcuda.so.1 => not found\n"
        self.assertEqual(setup_gpu.missing_names(said), ["libcublas.so.13", "libcuda.so.1"])


class Pack(unittest.TestCase):
    def test_a_missing_piece_is_an_error_and_nothing_is_unpacked(self):
        with tempfile.TemporaryDirectory() as directory:
            pieces = pathlib.Path(directory, "pieces")
            pieces.mkdir()
            pathlib.Path(directory, "file").write_text("something")
            commands = "tar -czf - -C .. file | split -b 50 -d -a 3 - piece. && sha256sum piece.* >SHA256SUMS"
            subprocess.run(["sh", "-c", commands], cwd=pieces, check=True)
            unpack = [SCRIPTS / "gpu-pack.sh", "unpack", pieces, f"{directory}/target"]
            self.assertEqual(subprocess.run(unpack, capture_output=True).returncode, 0)
            self.assertTrue(pathlib.Path(directory, "target/file").is_file())
            (pieces / "piece.001").unlink()
            unpack[-1] = f"{directory}/other"
            said = subprocess.run(unpack, capture_output=True, text=True)
            self.assertEqual(said.returncode, 1)
            self.assertIn("piece.001", said.stderr)
            self.assertFalse(pathlib.Path(directory, "other").exists())


@unittest.skipUnless(os.environ.get("CLASSIFYD_PROGRAMS"), "needs CLASSIFYD_PROGRAMS, the directory of classifyd and raw")
class WithoutGpu(unittest.TestCase):
    def check(self, directory, *options):
        command = [sys.executable, SCRIPTS / "gpu_check.py", "--out", directory, "--programs", os.environ["CLASSIFYD_PROGRAMS"], *options]
        return subprocess.run(command, capture_output=True, text=True)

    def test_the_whole_check_runs_on_the_cpu(self):
        with tempfile.TemporaryDirectory() as directory:
            options = "--device cpu --loads images --parts agreement,raw,sweep --seconds 1 --batches 1,2 --connections 1,4".split()
            said = self.check(directory, *options)
            self.assertEqual(said.returncode, 0, said.stderr)
            results = json.loads(pathlib.Path(directory, "results.json").read_text())
            models = {one["model"]: one for one in results["agreement"]}
            self.assertLessEqual({"digits", "fashion", "images", "sentiment"}, models.keys())
            self.assertTrue(all(one["difference"] < 1e-3 and one["provider"] == "cpu" for one in models.values()), models)
            self.assertEqual([run["batch"] for run in results["raw"][0]["runs"]], [1, 2])
            [swept] = results["sweep"]
            self.assertEqual([step["connections"] for step in swept["steps"]], [1, 4])
            self.assertTrue(0 < swept["warm_s"] < swept["ready_s"], swept)
            self.assertTrue(all(step["throughput"] > 0 and step["not_answered"] == 0 for step in swept["steps"]), swept)
            self.assertIn("### Beside ONNX Runtime alone and PyTorch", said.stdout)

    def test_a_missing_gpu_is_an_error(self):
        with tempfile.TemporaryDirectory() as directory, mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": ""}):
            said = self.check(directory, "--device-id", "97")
            self.assertEqual(said.returncode, 1)
            self.assertIn("nvidia-smi shows no GPU 97", said.stderr)
            self.assertEqual(self.check(directory, "--device", "cpu", "--write").returncode, 2)


if __name__ == "__main__":
    unittest.main()
