"""Compares Graft's CPU optimizations (retained memory, fused batch norms, faster kernels) with torch alone.

    python benchmarks/fast_paths.py [--architecture mobilenet_v2] [--batch 32] [--rounds 3]

Both variants run in turn, each in its own process, on the same random images in channels last. Prints milliseconds
per image, the minimum over all rounds of each variant, and their ratio.
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
from graft.models.fusion import fuse_conv_bn

STEPS = 4


def main() -> None:
    """Time both variants, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="mobilenet_v2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", choices=["plain", "graft"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.architecture, options.batch, options.variant == "graft")))
        return
    best: dict[str, dict[str, float]] = {"plain": {}, "graft": {}}
    for _ in range(options.rounds):
        for variant, minima in best.items():
            for name, value in measure_in_process(options.architecture, options.batch, variant).items():
                minima[name] = min(value, minima.get(name, value))
    print(f"{options.architecture}, {platform.machine()}, {os.cpu_count()} cores: ms per image")
    print(f"{'':24} {'plain':>8} {'Graft':>8} {'ratio':>8}")
    for name, plain in best["plain"].items():
        graft = best["graft"][name]
        print(f"{name:24} {plain:8.1f} {graft:8.1f} {graft / plain:8.2f}")


def measure_in_process(architecture: str, batch: int, variant: str) -> dict[str, float]:
    """The measurements of one variant in a new process."""
    command = [sys.executable, __file__, "--architecture", architecture, "--batch", str(batch), "--variant", variant]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(architecture: str, batch: int, graft: bool) -> dict[str, float]:
    """Milliseconds per image of a forward pass, a training step and a step of the head, in both precisions."""
    torch.manual_seed(0)
    model = get_model(architecture, weights=None).to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,))
    times = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        compute = Compute(torch.device("cpu"), dtype, True)

        def autocast(compute: Compute = compute) -> AbstractContextManager[object]:
            if graft:
                return compute.autocast()
            return torch.autocast("cpu", compute.dtype, enabled=compute.dtype is not torch.float32)

        eval_model = fuse_conv_bn(model) if graft else model.eval()
        with compute.context() if graft else nullcontext():
            times[f"forward, {name}"] = fastest_ms(lambda: forward(eval_model, images, autocast)) / batch  # noqa: B023
            model.train()
            times[f"training step, {name}"] = fastest_ms(lambda: step(model, images, labels, autocast)) / batch
            model.requires_grad_(False)
            list(model.children())[-1].requires_grad_(True)
            times[f"step of the head, {name}"] = fastest_ms(lambda: step(model, images, labels, autocast)) / batch
            model.requires_grad_(True)
    return times


def forward(model: nn.Module, images: Tensor, autocast: Callable[[], AbstractContextManager[object]]) -> None:
    """A forward pass without gradients."""
    with torch.inference_mode(), autocast():
        model(images)


def step(
    model: nn.Module, images: Tensor, labels: Tensor, autocast: Callable[[], AbstractContextManager[object]]
) -> None:
    """A forward pass, and a backward pass through the unfrozen layers."""
    with autocast():
        loss = cross_entropy(model(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad()


def fastest_ms(work: Callable[[], None]) -> float:
    """Milliseconds of the fastest of several calls, after one warm-up call."""
    times = []
    for _ in range(1 + STEPS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:]) * 1000


if __name__ == "__main__":
    main()
