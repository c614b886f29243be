"""What kept memory, folded batch norms and faster kernels save on a CPU, beside torch alone.

    python benchmarks/fast_paths.py [--architecture mobilenet_v2] [--batch 32] [--rounds 3]

Both sides run in turn, each in a process of its own, on the same random images, channels last: milliseconds an
image, the best of each side's rounds, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import get_model

from graft.compute.devices import Compute
from graft.networks.fusing import fused

STEPS = 4


def main() -> None:
    """Time both sides and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="mobilenet_v2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["plain", "graft"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(timed(options.architecture, options.batch, options.side == "graft")))
        return
    best: dict[str, dict[str, float]] = {"plain": {}, "graft": {}}
    for _ in range(options.rounds):
        for side, known in best.items():
            for name, value in in_a_process(options.architecture, options.batch, side).items():
                known[name] = min(value, known.get(name, value))
    print(f"{options.architecture}, {platform.machine()}, {os.cpu_count()} cores: ms an image")
    print(f"{'':24} {'plain':>8} {'Graft':>8} {'ratio':>8}")
    for name, plain in best["plain"].items():
        ours = best["graft"][name]
        print(f"{name:24} {plain:8.1f} {ours:8.1f} {ours / plain:8.2f}")


def in_a_process(architecture: str, batch: int, side: str) -> dict[str, float]:
    """One side, timed."""
    command = [sys.executable, __file__, "--architecture", architecture, "--batch", str(batch), "--side", side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def timed(architecture: str, batch: int, graft: bool) -> dict[str, float]:
    """Milliseconds an image by what is done."""
    torch.manual_seed(0)
    model = get_model(architecture, weights=None).to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,))
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        compute = Compute(torch.device("cpu"), dtype, True)

        def mixed(compute: Compute = compute) -> AbstractContextManager[object]:
            if graft:
                return compute.autocast()
            return torch.autocast("cpu", compute.dtype, enabled=compute.dtype is not torch.float32)

        judging = fused(model) if graft else model.eval()
        with compute.running() if graft else nullcontext():
            found[f"forward, {name}"] = best_of(lambda: forward(judging, images, mixed)) / batch  # noqa: B023
            model.train()
            found[f"training step, {name}"] = best_of(lambda: step(model, images, labels, mixed)) / batch
            model.requires_grad_(False)
            list(model.children())[-1].requires_grad_(True)
            found[f"step of the head, {name}"] = best_of(lambda: step(model, images, labels, mixed)) / batch
            model.requires_grad_(True)
    return found


def forward(model: nn.Module, images: Tensor, mixed: Callable[[], AbstractContextManager[object]]) -> None:
    """Without a gradient."""
    with torch.inference_mode(), mixed():
        model(images)


def step(
    model: nn.Module, images: Tensor, labels: Tensor, mixed: Callable[[], AbstractContextManager[object]]
) -> None:
    """Forward and backward through what is thawed."""
    with mixed():
        loss = cross_entropy(model(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad()


def best_of(work: Callable[[], None]) -> float:
    """Milliseconds; the first time is not counted."""
    times = []
    for _ in range(1 + STEPS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times[1:]) * 1000


if __name__ == "__main__":
    main()
