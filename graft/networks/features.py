"""What a backbone hands on from stage to stage, and a network cut there: what lies before it, and what behind.

The network itself says how its stages follow each other. It is run with its input caught before a stage, and run
again with what was caught fed back in there: then the stages before it only say their shapes, on the meta device.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graft.networks.backbones import head_name, stage_of, stages

Shapes = dict[str, torch.Size]
_known_shapes: dict[tuple[str, int, str], Shapes] = {}  # of a network, an image's side and a stage


class _Caught(Exception):  # noqa: N818  it is no error: nothing behind the last stage asked for need be computed
    pass


@torch.no_grad()
def stage_inputs(model: nn.Module, images: Tensor, names: list[str]) -> dict[str, Tensor]:
    """What reaches these stages of normalised images ``[batch, 3, height, width]``, each ``[batch, ...]``.

    The model runs in eval mode up to the last of them, and is put back into the modes that it was in.
    """
    caught: dict[str, Tensor] = {}

    def catch(name: str, given: tuple[Tensor, ...]) -> None:
        caught[name] = given[0].clone()  # what follows may compute in place
        if len(caught) == len(names):
            raise _Caught

    handles = [
        stage_module(model, name).register_forward_pre_hook(lambda _, given, name=name: catch(name, given))
        for name in names
    ]
    try:
        with _in_eval_mode(model):
            model(images)
    except _Caught:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return caught


def head_inputs(model: nn.Module, images: Tensor) -> Tensor:
    """The features ``[batch, features]`` that reach the head, averaged over places; else as ``stage_inputs``."""
    return averaged(stage_inputs(model, images, ["head"])["head"])


def averaged(features: Tensor) -> Tensor:
    """``[batch, features]`` of what reaches a head, which may be maps ``[batch, features, height, width]``."""
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


class Rest:
    """A model from a stage on: it takes what reaches that stage, and returns logits.

    It shares the stages behind the cut with the model: weights, modes and hooks. Those before it must be frozen.
    """

    def __init__(self, model: nn.Module, stage: str) -> None:
        names = stages(model)
        behind = set(names[names.index(stage) :])
        known: dict[int, object] = {}
        for value in (*model.parameters(), *model.buffers()):
            known[id(value)] = _without_numbers(value)
        for name, module in model.named_modules():
            if name and stage_of(name) in behind:
                known[id(module)] = module
        self.image_px = int(model.image_size)  # type: ignore[arg-type]
        self.model = copy.deepcopy(model, known)
        self.entry = stage_module(self.model, stage)
        before = [name for name in names[: names.index(stage)] if name != "embedding"]
        key = (repr(model), self.image_px, stage)
        if key not in _known_shapes:  # each fold trains a network like the one before
            _known_shapes[key] = self._shapes(before)
        for name, shape in _known_shapes[key].items():
            self.model.set_submodule(name, _Stub(shape))

    def __call__(self, activations: Tensor) -> Tensor:
        """Logits ``[batch, classes]`` of what ``stage_inputs`` gave."""
        handle = self.entry.register_forward_pre_hook(lambda *_: (activations,))
        try:
            return torch.as_tensor(self.model(self._images(len(activations))))
        finally:
            handle.remove()

    def head_inputs(self, activations: Tensor) -> Tensor:
        """What they become on their way to the head, as ``head_inputs`` gives it, in eval mode."""
        head = stage_module(self.model, "head")
        if self.entry is head:
            return averaged(activations)
        caught: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            with torch.no_grad(), _in_eval_mode(self.model):
                self(activations)
        finally:
            handle.remove()
        return averaged(caught[0])

    def _images(self, count: int) -> Tensor:
        return torch.empty(count, 3, self.image_px, self.image_px, device="meta")

    def _shapes(self, names: list[str]) -> Shapes:
        """What these stages give of an image."""
        found: Shapes = {}

        def stop(*_: object) -> None:
            raise _Caught

        def note(name: str, given: Tensor) -> None:
            found[name] = given.shape[1:]

        handles = [self.entry.register_forward_pre_hook(stop)]
        for name in names:
            module = stage_module(self.model, name)
            handles.append(module.register_forward_hook(lambda _, __, given, name=name: note(name, given)))
        try:
            self.model(self._images(2))
        except _Caught:
            return found
        finally:
            for handle in handles:
                handle.remove()
        raise AssertionError(f"nothing reaches {self.entry}")


class _Stub(nn.Module):
    """A stage that gives its shape at once: to run many layers for their shapes takes longer than a step."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, given: Tensor) -> Tensor:
        return given.new_empty((len(given), *self.shape))


def stage_module(model: nn.Module, stage: str) -> nn.Module:
    """The module that a stage is; raises ``AttributeError`` for the embedding of a ViT, which is several."""
    return model.get_submodule(head_name(model) if stage == "head" else stage)


def _without_numbers(value: Tensor) -> Tensor:
    shape = value.detach().to("meta")
    return nn.Parameter(shape, requires_grad=False) if isinstance(value, nn.Parameter) else shape


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
