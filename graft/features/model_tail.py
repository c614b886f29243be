"""Intermediate features of a model, and its tail: the model from a stage on.

The order of a torchvision model's stages is code in its ``forward``. Instead of repeating that code for 80
architectures, the model itself is run. A hook reads the input of a stage; to run the tail, another hook replaces this
input by features, while the stages before it only return empty tensors of the right shape on the meta device.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graft.models.stages import head_name, stage_names, stage_of

Shapes = dict[str, torch.Size]
_shape_cache: dict[tuple[str, int, str], Shapes] = {}  # by architecture, image side and split stage


class _StopForward(Exception):  # noqa: N818  not an error: it ends a forward pass once its features are read
    pass


@torch.no_grad()
def intermediate_features(model: nn.Module, images: Tensor, names: list[str]) -> dict[str, Tensor]:
    """The inputs of these stages, each ``[batch, ...]``, for normalised images ``[batch, 3, height, width]``.

    The model runs in eval mode up to the last of the stages; the modes of its modules are restored.
    """
    features: dict[str, Tensor] = {}

    def read(name: str, inputs: tuple[Tensor, ...]) -> None:
        features[name] = inputs[0].clone()  # the stage may compute in place
        if len(features) == len(names):
            raise _StopForward

    handles = [
        stage_module(model, name).register_forward_pre_hook(lambda _, inputs, name=name: read(name, inputs))
        for name in names
    ]
    try:
        with _in_eval_mode(model):
            model(images)
    except _StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return features


def pre_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The input of the head, pooled to ``[batch, features]``; arguments as for ``intermediate_features``."""
    return pool_features(intermediate_features(model, images, ["head"])["head"])


def pool_features(features: Tensor) -> Tensor:
    """Average maps ``[batch, features, height, width]`` to ``[batch, features]``; vectors stay as they are."""
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


class ModelTail:
    """A model from a stage on: features in, logits out.

    Shares the modules of the tail with the model: weights, modes and hooks. The stages before it must be frozen.
    """

    def __init__(self, model: nn.Module, split_stage: str) -> None:
        names = stage_names(model)
        tail = set(names[names.index(split_stage) :])
        # A deep copy with the tail's modules shared, and every other weight replaced by its shape.
        memo: dict[int, object] = {}
        for value in (*model.parameters(), *model.buffers()):
            memo[id(value)] = _on_meta(value)
        for name, module in model.named_modules():
            if name and stage_of(name) in tail:
                memo[id(module)] = module
        self.image_px = int(model.image_size)  # type: ignore[arg-type]
        self.model = copy.deepcopy(model, memo)
        self.entry = stage_module(self.model, split_stage)
        frozen = [name for name in names[: names.index(split_stage)] if name != "embedding"]
        key = (repr(model), self.image_px, split_stage)
        if key not in _shape_cache:  # every fold trains a model of the same architecture
            _shape_cache[key] = self._output_shapes(frozen)
        for name, shape in _shape_cache[key].items():
            self.model.set_submodule(name, _ShapeStub(shape))

    def __call__(self, features: Tensor) -> Tensor:
        """Logits ``[batch, classes]`` for features as ``intermediate_features`` returns them."""
        handle = self.entry.register_forward_pre_hook(lambda *_: (features,))
        try:
            return torch.as_tensor(self.model(self._meta_images(len(features))))
        finally:
            handle.remove()

    def pre_logits(self, features: Tensor) -> Tensor:
        """The pooled input of the head ``[batch, features]``, computed in eval mode."""
        head = stage_module(self.model, "head")
        if self.entry is head:
            return pool_features(features)
        head_inputs: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, inputs: head_inputs.append(inputs[0]))
        try:
            with torch.no_grad(), _in_eval_mode(self.model):
                self(features)
        finally:
            handle.remove()
        return pool_features(head_inputs[0])

    def _meta_images(self, count: int) -> Tensor:
        return torch.empty(count, 3, self.image_px, self.image_px, device="meta")

    def _output_shapes(self, names: list[str]) -> Shapes:
        """The output shapes of these stages, without the batch dimension."""
        shapes: Shapes = {}

        def stop(*_: object) -> None:
            raise _StopForward

        def record(name: str, output: Tensor) -> None:
            shapes[name] = output.shape[1:]

        handles = [self.entry.register_forward_pre_hook(stop)]
        for name in names:
            module = stage_module(self.model, name)
            handles.append(module.register_forward_hook(lambda _, __, output, name=name: record(name, output)))
        try:
            self.model(self._meta_images(2))
        except _StopForward:
            return shapes
        finally:
            for handle in handles:
                handle.remove()
        raise AssertionError(f"{self.entry} was not reached")


class _ShapeStub(nn.Module):
    """Replaces a stage and returns an empty tensor of its output shape.

    Running the frozen layers on the meta device instead would take longer than a training step of the tail.
    """

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.new_empty((len(inputs), *self.shape))


def stage_module(model: nn.Module, stage: str) -> nn.Module:
    """The module of a stage; raises ``AttributeError`` for a ViT's embedding, which consists of several."""
    return model.get_submodule(head_name(model) if stage == "head" else stage)


def _on_meta(value: Tensor) -> Tensor:
    meta = value.detach().to("meta")
    return nn.Parameter(meta, requires_grad=False) if isinstance(value, nn.Parameter) else meta


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
