"""Image registration: whether one thumbnail shows the same photograph as another, by their pixels.

Two thumbnails show the same photograph if one of two simple models explains one by the other:

- **tone**: the same frame; the grey levels of one are a function of those of the other (brightness, contrast, gamma,
  another encoder, another size);
- **crop**: one is a window of the other, with the same grey levels.

The error that a model leaves is compared with the energy of the image's *detail*, its band of medium frequencies: for
plain images, which agree in everything else, only their detail is evidence. Windows are found with the inverse
compositional algorithm: Baker and Matthews, "Lucas-Kanade 20 years on", 2004.
"""

from __future__ import annotations

from functools import cache

import numpy as np

SIDE = 64  # px of a thumbnail
IDENTITY = np.array([1, 1, 0, 0], dtype=np.float32)
MIN_WINDOW, MAX_WINDOW = 0.8, 1.01  # sides of a window as fractions; above 1 for rounding
ITERATIONS = 5
MAX_STEP = 0.05  # of half a side, per iteration
EDGE_PX = 5  # ignored in a crop, where blurring mixes in what is outside the window
TONE_KNOTS = 6
MAX_CONTRAST_RATIO = 2.0  # of the relative contrasts of two tones
WHITE = 248  # grey level; what is white in only one image may be cut off by brightening
MIN_VISIBLE = 0.3  # fraction of the pixels that are not cut off
MIN_EXTENT, SMALL_EXTENT_STRICTNESS = 7.0, 32.0  # blocks with detail: one straight stroke is like any other
NOISE = 0.1  # squared grey levels, of rounding
# Before the models are fitted: correlations of detail, and a difference of mean grey levels.
MIN_COARSE_CORRELATION, MIN_DETAIL_CORRELATION, MAX_OFFSET = 0.5, 0.85, 1
MAX_ERROR, MAX_ERROR_BEFORE_REFINING = 0.08, 0.4  # mean squared error of a model, divided by the energy of the detail


def same_photograph(source: np.ndarray, target: np.ndarray, windows: np.ndarray, strictness: np.ndarray) -> np.ndarray:
    """Whether each target shows the same photograph as its source: bool ``[n]``.

    Thumbnails are ``[n, 64, 64]`` in 0..255. ``windows``, float32 ``[n, 4]``, are where in the source the target is
    searched for: fractions of width and height, then the shift of the centre to the right and down in halves of a
    side. The tone model is tried where the window is the whole image. ``strictness`` ``[n]`` divides the accepted
    error.
    """
    source, target = source.astype(np.float32), target.astype(np.float32)
    small_source, small_target = _blur(warp(halve(source), windows), 1.5), _blur(halve(target), 1.5)
    detail = _detail(small_target, 4.0)
    similar = _correlation(_detail(small_source, 4.0), detail) >= MIN_COARSE_CORRELATION
    offset = (small_source - small_target).mean(axis=(1, 2))
    accepted = np.zeros(len(source), dtype=bool)
    for model_error, candidates in (
        (_tone_error, similar & (windows == IDENTITY).all(axis=1)),
        (_crop_error, similar & (np.abs(offset) <= MAX_OFFSET + 0.5 * np.sqrt(_energy(detail)))),
    ):
        chosen = np.flatnonzero(candidates & ~accepted)
        if len(chosen):
            error = model_error(source[chosen], target[chosen], windows[chosen])
            accepted[chosen] = error <= MAX_ERROR / strictness[chosen]
    return accepted


def warp(images: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """The window of each image, resampled bilinearly to the size of the image: ``[n, side, side]``."""
    columns, rows = (interpolation(images.shape[-1], windows[:, axis], windows[:, axis + 2]) for axis in (0, 1))
    return np.asarray(rows @ images @ columns.transpose(0, 2, 1))


def halve(images: np.ndarray) -> np.ndarray:
    """The images at half their size: float32 ``[n, side / 2, side / 2]``."""
    rows = images[:, ::2] + images[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / 4)


def _tone_error(source: np.ndarray, target: np.ndarray, windows: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """The error if the grey levels of each target were a function of those of its source, pixel by pixel: ``[n]``."""
    cut_off = (np.minimum(source, target) < WHITE) & (np.maximum(source, target) >= WHITE)
    visible = _blur(cut_off.astype(np.float32), 1.0) < 0.05
    source, target = _blur(source, 1.0), _blur(target, 1.0)
    detail = _detail(target, 4.0)
    ratio = _contrast(target) / _contrast(source)
    plausible = _correlation(_detail(source, 4.0), detail) >= MIN_DETAIL_CORRELATION
    plausible &= (ratio <= MAX_CONTRAST_RATIO) & (ratio >= 1 / MAX_CONTRAST_RATIO)
    error, doubt = np.full(len(source), np.inf), np.where(_extent(detail) >= MIN_EXTENT, 1, SMALL_EXTENT_STRICTNESS)
    chosen = np.flatnonzero(plausible)
    if len(chosen):
        source, target, detail, visible = (
            values[chosen, ::2, ::2]  # the images are blurred
            for values in (source, target, detail, visible)
        )
        error[chosen] = _fit_tone(source, target, detail, np.ones_like(visible))
        share = visible.mean(axis=(1, 2))
        again = np.flatnonzero((share < 1) & (share >= MIN_VISIBLE))
        if len(again):
            repeated = _fit_tone(*(values[again] for values in (source, target, detail, visible)))
            error[chosen[again]] = np.minimum(error[chosen[again]], repeated)
    return error * doubt


def _crop_error(source: np.ndarray, target: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """The error if each target were the best window of its source near the given one: ``[n]``."""
    small_source, small_target = halve(source), halve(target)
    for fine, coarse in ((1.5, 4.0), (0.7, 2.0)):
        windows = _align(small_source, small_target, fine, coarse, windows)
    error = _window_error(source, target, windows)
    chosen = np.flatnonzero((error > 0.5 * MAX_ERROR) & (error <= MAX_ERROR_BEFORE_REFINING))
    if len(chosen):
        source, target = source[chosen], target[chosen]
        error[chosen] = _window_error(source, target, _align(source, target, 1.0, 4.0, windows[chosen]))
    return error


def _window_error(source: np.ndarray, target: np.ndarray, windows: np.ndarray) -> np.ndarray:
    inside = slice(EDGE_PX, -EDGE_PX)
    target = _blur(target, 1.0)
    residual = (target - _blur(warp(source, windows), 1.0))[:, inside, inside]
    detail = _detail(target, 4.0)
    error = (residual**2).mean(axis=(1, 2)) / _energy(detail[:, inside, inside])
    return np.asarray(np.where(_extent(detail) >= MIN_EXTENT, error, np.inf))


def _extent(detail: np.ndarray) -> np.ndarray:
    """Over how many of the 64 blocks of 8 px the detail is spread (the participation ratio): ``[n]``."""
    count, side, _ = detail.shape
    energy = (detail**2).reshape(count, 8, side // 8, 8, side // 8).mean(axis=(2, 4)).reshape(count, -1)
    return np.asarray(energy.sum(axis=1) ** 2 / ((energy**2).sum(axis=1) + 1e-6))


def _align(source: np.ndarray, target: np.ndarray, fine: float, coarse: float, windows: np.ndarray) -> np.ndarray:
    """Move each window to where its detail resembles the target's most, by Gauss-Newton steps; never to a worse one."""
    count, side, _ = source.shape
    grid, inside = _grid(side), slice(1, -1)
    target = _normalized(_detail(_blur(target, fine), coarse))
    down, right = np.gradient(target, 2 / side, axis=(1, 2))
    jacobian = np.stack([right * grid, down * grid[:, None], right, down], axis=1)
    jacobian = jacobian[:, :, inside, inside].reshape(count, 4, -1)
    hessian = jacobian @ jacobian.transpose(0, 2, 1)
    damping = 1e-3 * np.trace(hessian, axis1=1, axis2=2) + 1e-3
    solver = np.linalg.solve(hessian + np.eye(4, dtype=np.float32) * damping[:, None, None], jacobian)
    best, best_error = windows, np.full(count, np.inf)
    for _ in range(ITERATIONS + 1):
        detail = _normalized(_detail(_blur(warp(source, windows), fine), coarse))
        error = (detail - target)[:, inside, inside].reshape(count, -1, 1)
        squared = (error[..., 0] ** 2).sum(axis=1)
        best = np.where((squared < best_error)[:, None], windows, best)
        best_error = np.minimum(squared, best_error)
        step = (solver @ error)[..., 0].clip(-MAX_STEP, MAX_STEP)
        scale = (windows[:, :2] / (1 + step[:, :2])).clip(MIN_WINDOW, MAX_WINDOW)
        shift = windows[:, 2:] - windows[:, :2] * step[:, 2:] / (1 + step[:, :2])
        windows = np.concatenate([scale, shift.clip(scale - MAX_WINDOW, MAX_WINDOW - scale)], axis=1)
    return best


def _fit_tone(source: np.ndarray, target: np.ndarray, detail: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The relative error of the best piecewise linear function from the source's levels to the target's, ``[n]``.

    Pixels that are not ``visible`` are ignored.
    """
    count = len(source)
    weights = visible.reshape(count, -1).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True) + 1e-6
    source, target = source.reshape(count, -1), target.reshape(count, -1)
    low, high = source.min(axis=1, keepdims=True), source.max(axis=1, keepdims=True)
    level = (source - low) / (high - low + 1e-3)
    knots = np.arange(TONE_KNOTS, dtype=np.float32) / TONE_KNOTS
    basis = np.concatenate([np.ones_like(level)[:, None], np.maximum(0, level[:, None] - knots[:, None])], axis=1)
    weighted = basis * weights[:, None]
    gram = weighted @ basis.transpose(0, 2, 1) + 1e-6 * np.eye(TONE_KNOTS + 1, dtype=np.float32)
    coefficients = np.linalg.solve(gram, weighted @ target[..., None])
    residual = target - (coefficients.transpose(0, 2, 1) @ basis)[:, 0]
    energy = (weights * detail.reshape(count, -1) ** 2).sum(axis=1) + NOISE
    return np.asarray((weights * residual**2).sum(axis=1) / energy)


def _blur(images: np.ndarray, sigma: float) -> np.ndarray:
    matrix = _gaussian(images.shape[-1], sigma)
    return np.asarray(matrix @ images @ matrix.T)


def _detail(images: np.ndarray, sigma: float) -> np.ndarray:
    """What blurring removes."""
    return np.asarray(images - _blur(images, sigma))


def _contrast(images: np.ndarray) -> np.ndarray:
    """Standard deviation divided by the mean grey level, ``[n]``."""
    return np.asarray((images.std(axis=(1, 2)) + 1e-2) / (images.mean(axis=(1, 2)) + 1))


def _energy(detail: np.ndarray) -> np.ndarray:
    return np.asarray((detail**2).mean(axis=(1, 2)) + NOISE)


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray((_normalized(first) * _normalized(second)).mean(axis=(1, 2)))


def _normalized(images: np.ndarray) -> np.ndarray:
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    return np.asarray(centred / (np.sqrt((centred**2).mean(axis=(1, 2), keepdims=True)) + 1e-2))


def _grid(side: int) -> np.ndarray:
    """The centres of pixels, in -1..1."""
    return ((np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1).astype(np.float32)


def interpolation(side: int, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Matrices that resample windows of a line: ``[n, side, side]``."""
    position = (scale[:, None] * _grid(side) + shift[:, None] + 1) * side / 2 - 0.5
    distance = np.abs(position.clip(0, side - 1)[:, :, None] - np.arange(side, dtype=np.float32))
    return np.asarray(np.maximum(0, 1 - distance).astype(np.float32))


@cache
def _gaussian(side: int, sigma: float) -> np.ndarray:
    """The matrix that blurs a line, mirrored at its ends: float32 ``[side, side]``."""
    radius = int(4 * sigma + 1)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((side, side), dtype=np.float32)
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        source = np.arange(side) + offset
        source = np.where(source < 0, -1 - source, np.where(source >= side, 2 * side - 1 - source, source))
        matrix[np.arange(side), source] += weight
    return matrix
