#!/usr/bin/env python3
"""Compares the training speed of `trainer` and PyTorch, in samples per second: the network `airbench` of
`trainer train images`, one thread each, alternating. Needs torch 2.11 and the files of CIFAR-10 (`trainer fetch cifar10`):

    python3 -m venv .venv && .venv/bin/pip install torch==2.11.0
    .venv/bin/python scripts/compare-with-pytorch.py target/release/trainer ~/.cache/classifyd/data/cifar10

usage: compare-with-pytorch.py TRAINER DATA [ROUNDS [IMAGES]]"""
import os, pathlib, re, statistics, subprocess, sys, tempfile, time

RECORD, BATCH = 3073, 512
FILES = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]


def trainer(program, data, precision):
    """Trains one epoch with `trainer` on the images in `data`. Returns its own figure, which excludes validation."""
    with tempfile.TemporaryDirectory() as directory:
        command = [program, *f"train images --epochs 1 --threads 1 --precision {precision}".split(), "--data", data]
        command += ["--run", f"{directory}/run", "--out", f"{directory}/images/1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = []
        for line in process.stderr:
            said.append(line)
            found = re.search(r"epoch 1/1: .* ([0-9]+) samples/s", line)
            if found:
                process.kill()
                process.wait()
                return float(found[1])
    sys.exit("trainer ended without a figure:\n" + "".join(said))


def pytorch(data, precision):
    """The same network, augmentation, optimiser and weight averaging in PyTorch."""
    import torch
    from torch import nn
    import torch.nn.functional as F

    torch.set_num_threads(1)
    torch.manual_seed(1)

    class Stage(nn.Sequential):
        def __init__(self, inputs, outputs):
            convolution = lambda inputs: nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            super().__init__(
                convolution(inputs), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.GELU(),
                convolution(outputs), nn.BatchNorm2d(outputs), nn.GELU(),
            )

    whiten = nn.Conv2d(3, 24, 2)
    whiten.weight.requires_grad = False
    model = nn.Sequential(
        whiten, nn.GELU(), Stage(24, 48), Stage(48, 160), Stage(160, 256), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, 10)
    ).to(memory_format=torch.channels_last)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.85, nesterov=True, weight_decay=1.33e-3)
    average = [weight.detach().clone() for weight in trained]

    bytes_ = b"".join((data / name).read_bytes() for name in FILES[:5])
    records = torch.frombuffer(bytearray(bytes_), dtype=torch.uint8).view(-1, RECORD)
    records = records[: len(records) * 9 // 10]
    labels, images = records[:, 0].long(), records[:, 1:].view(-1, 3, 32, 32)
    mean, deviation = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.2435, 0.2616])
    order = torch.randperm(len(labels))
    begun = time.perf_counter()
    for picked in order.split(BATCH):
        batch = (images[picked].float() / 255 - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
        batch = F.pad(batch, (2, 2, 2, 2), mode="reflect")
        count = len(picked)
        rows = torch.randint(5, (count, 1)) + torch.arange(32)
        columns = torch.randint(5, (count, 1)) + torch.arange(32)
        columns = torch.where(torch.rand(count, 1) < 0.5, columns, columns.flip(1))
        at = torch.arange(count).view(-1, 1, 1)
        batch = batch.permute(0, 2, 3, 1)[at, rows.view(count, 32, 1), columns.view(count, 1, 32)].permute(0, 3, 1, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = model(batch)
        loss = F.cross_entropy(logits.float() / 9, labels[picked], label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, trained, 0.01)
        loss.item()
    return len(order) / (time.perf_counter() - begun)


def main():
    if sys.argv[1:2] == ["--pytorch"]:
        print(pytorch(pathlib.Path(sys.argv[2]), sys.argv[3]))
        return
    program, source = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    per_file = int(sys.argv[4]) // 5 if len(sys.argv) > 4 else 2000
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as directory:
        data = pathlib.Path(directory)
        for name in FILES:
            with open(source / name, "rb") as file:
                (data / name).write_bytes(file.read(RECORD * per_file))
        for precision in ["bf16", "f32"]:
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(trainer(program, data, precision))
                command = [sys.executable, __file__, "--pytorch", str(data), precision]
                theirs.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            median = [statistics.median(rates) for rates in (ours, theirs)]
            print(f"{precision}: trainer {median[0]:.0f}, PyTorch {median[1]:.0f} samples/s, ratio {median[0] / median[1]:.2f}")
            print(f"  rounds: {[(round(a), round(b)) for a, b in zip(ours, theirs)]}", flush=True)


main()
