"""Pretrain the bundled backbone on printed letters.

The source task is to classify rendered letters of six scripts, in the fonts that come with matplotlib; there are no
digits. Each letter is warped, thickened, coloured, cluttered and reduced to a few pixels, which makes printed letters
similar to handwriting: on handwritten digits, the frozen features then do better than both raw pixels and random
weights (measured by ``benchmarks/bundled_backbone.py``).

    python scripts/pretrain_letters.py --out graft/assets/letters_mobilenet_v3_small.safetensors
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import mobilenet_v3_small
from tqdm import trange

INPUT_PX = 48
GLYPH_PX = 48
INK_PX = 32
PEAK_LR = 4e-3
SCRIPTS = {
    "Latin": (0x41, 0x7B),
    "Greek": (0x391, 0x3CA),
    "Cyrillic": (0x410, 0x460),
    "Armenian": (0x531, 0x588),
    "Hebrew": (0x5D0, 0x5EB),
    "Georgian": (0x10D0, 0x10F1),
}
MIN_FONTS = 4
SAME_CLASS_CORRELATION = 0.93


@dataclass(frozen=True)
class Letters:
    """Every letter in every font: glyphs uint8 ``[n, 48, 48]`` and classes int64 ``[n]``."""

    glyphs: Tensor
    classes: Tensor
    names: list[str]


def font_paths() -> list[Path]:
    """The TrueType fonts of matplotlib that map letters to their Unicode code points."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    prefixes = ("DejaVu", "STIXGeneral")
    return sorted(path for path in folder.glob("*.ttf") if path.name.startswith(prefixes))


def render(letter: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """The letter uint8 ``[48, 48]``, cropped to its bounding box and scaled to 40 px on the longer side."""
    left, top, right, bottom = font.getbbox(letter)
    canvas = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(canvas).text((4 - left, 4 - top), letter, fill=255, font=font)
    ink = canvas.crop(canvas.getbbox())
    # The square root halves the log aspect ratio: an 'l' stays slim, yet letters fill their box as scanned digits do.
    aspect = math.sqrt(ink.width / ink.height)
    height = 40 if aspect <= 1 else round(40 / aspect)
    width = 40 if aspect >= 1 else max(6, round(40 * aspect))
    glyph = Image.new("L", (GLYPH_PX, GLYPH_PX))
    glyph.paste(ink.resize((width, height), Image.Resampling.BOX), ((GLYPH_PX - width) // 2, (GLYPH_PX - height) // 2))
    return np.asarray(glyph)


def load_letters() -> Letters:
    """Render the letters of all fonts; letters that look the same (``o`` and ``O``) become one class."""
    rendered: dict[str, list[np.ndarray]] = {}
    for path in font_paths():
        charmap = FT2Font(str(path)).get_charmap()
        font = ImageFont.truetype(str(path), 96)
        for first, last in SCRIPTS.values():
            for code in range(first, last):
                if code in charmap and chr(code).isalpha():
                    rendered.setdefault(chr(code), []).append(render(chr(code), font))
    classes: list[tuple[str, np.ndarray]] = []
    glyphs, labels = [], []
    for letter, images in rendered.items():
        if len(images) < MIN_FONTS:
            continue
        template = images[0].astype(float).ravel()
        template = (template - template.mean()) / (template.std() + 1e-6)
        correlations = [float(template @ other) / template.size for _, other in classes]
        is_same = correlations and max(correlations) > SAME_CLASS_CORRELATION
        label = int(np.argmax(correlations)) if is_same else len(classes)
        if label == len(classes):
            classes.append((letter, template))
        glyphs.extend(images)
        labels.extend([label] * len(images))
    return Letters(torch.from_numpy(np.stack(glyphs)), torch.tensor(labels), [name for name, _ in classes])


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform random numbers float32 ``[n, 1, 1, 1]``, one per image."""
    return torch.rand(n, 1, 1, 1, generator=generator) * (high - low) + low


def warp(glyphs: Tensor, out_px: int, generator: torch.Generator) -> Tensor:
    """Random rotation, shear, stretch, shift and warp: float32 ``[n, 1, 48, 48]`` to ``[n, 1, out_px, out_px]``."""
    n = len(glyphs)
    angle = uniform(n, -0.35, 0.35, generator).view(n)
    shear = uniform(n, -0.45, 0.45, generator).view(n)
    width = uniform(n, 0.85, 1.5, generator).view(n)
    height = uniform(n, 0.8, 1.15, generator).view(n)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = angle.cos() * width
    theta[:, 0, 1] = (shear - angle.sin()) * height
    theta[:, 1, 0] = angle.sin() * width
    theta[:, 1, 1] = angle.cos() * height
    theta[:, :, 2] = (torch.rand(n, 2, generator=generator) - 0.5) * 0.2
    grid = functional.affine_grid(theta, [n, 1, out_px, out_px], align_corners=False)
    coarse = torch.randn(n, 2, 4, 4, generator=generator) * uniform(n, 0.0, 0.13, generator)
    displacement = functional.interpolate(coarse, size=(out_px, out_px), mode="bicubic", align_corners=False)
    return functional.grid_sample(glyphs, grid + displacement.permute(0, 2, 3, 1), align_corners=False)


def thicken(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Change the stroke width at random, by one pixel thinner to two pixels wider: float32 ``[n, 1, h, w]``."""
    wider = functional.max_pool2d(ink, 3, 1, 1)
    widest = functional.max_pool2d(wider, 3, 1, 1)
    thinner = -functional.max_pool2d(-ink, 3, 1, 1)
    weights = torch.softmax(torch.randn(len(ink), 4, generator=generator) * 2.5, dim=1)
    levels = torch.stack([thinner, ink, wider, widest], dim=1)
    return (levels * weights.view(-1, 4, 1, 1, 1)).sum(1)


def clutter(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Add part of another letter at the left or right edge of a third of the images: float32 ``[n, 1, h, w]``."""
    n = len(ink)
    other = ink[torch.randperm(n, generator=generator)]
    sign = torch.randint(0, 2, (1,), generator=generator).item() * 2 - 1
    shifted = torch.roll(other, int(sign * ink.shape[-1] * 0.72), dims=3)
    edge = torch.zeros_like(shifted)
    offset = int(ink.shape[-1] * 0.72)
    columns = slice(offset, None) if sign > 0 else slice(0, ink.shape[-1] - offset)
    edge[..., columns] = shifted[..., columns]
    present = (uniform(n, 0, 1, generator) < 0.33).float()
    return torch.maximum(ink, edge * present)


def degrade(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Downsample to 6 to 24 px, add noise, upsample and colour: float32 RGB ``[n, 3, 48, 48]`` in 0..1."""
    n = len(ink)
    low_px = int(torch.tensor([6, 7, 8, 8, 8, 8, 9, 10, 12, 16, 24])[torch.randint(0, 11, (1,), generator=generator)])
    small = functional.interpolate(ink, size=(low_px, low_px), mode="area").clamp(0, 1)
    gain = uniform(n, 0.8, 1.6, generator)
    small = (small * gain).clamp(0, 1)
    small = (small + torch.randn(small.shape, generator=generator) * uniform(n, 0, 0.12, generator)).clamp(0, 1)
    ink = functional.interpolate(small, size=(INPUT_PX, INPUT_PX), mode="bilinear", align_corners=False)
    grey = (uniform(n, 0, 1, generator) < 0.6).float()
    low = torch.rand(n, 3, 1, 1, generator=generator) * 0.45
    high = 0.55 + torch.rand(n, 3, 1, 1, generator=generator) * 0.45
    low = grey * low[:, :1] + (1 - grey) * low
    high = grey * high[:, :1] + (1 - grey) * high
    ink = torch.where(uniform(n, 0, 1, generator) < 0.3, 1 - ink, ink)
    return low + (high - low) * ink


def draw_batch(letters: Letters, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random images float32 ``[size, 3, 48, 48]`` in -1..1 and their classes, all classes equally likely."""
    weights = 1 / torch.bincount(letters.classes).float()
    index = torch.multinomial(weights[letters.classes], size, replacement=True, generator=generator)
    ink = letters.glyphs[index].unsqueeze(1).float() / 255
    ink = thicken(warp(ink, INK_PX, generator), generator)
    return degrade(clutter(ink, generator), generator) * 2 - 1, letters.classes[index]


def pretrain(letters: Letters, steps: int, batch: int, seed: int) -> nn.Module:
    """Train a classifier of the letters; returns the model with the moving average of its weights."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = mobilenet_v3_small(num_classes=len(letters.names)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps, pct_start=0.1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)  # type: ignore[no-untyped-call]
    progress = trange(steps, unit="batch", desc="Pretraining")
    for _ in progress:
        images, classes = draw_batch(letters, batch, generator)
        logits = model(images.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits, classes, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return average.module.eval()


def main() -> None:
    """Pretrain, and save the backbone's weights in half precision, without the classifier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    letters = load_letters()
    print(f"{len(letters.glyphs)} glyphs of {len(letters.names)} classes in {len(font_paths())} fonts")
    model = pretrain(letters, options.steps, options.batch, options.seed)
    weights = {name: value for name, value in model.state_dict().items() if name.startswith("features.")}
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file({name: value.contiguous() for name, value in half.items()}, options.out)


if __name__ == "__main__":
    main()
