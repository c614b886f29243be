"""A data loader that raises a worker's ``DataError`` as it is; torch's adds the worker's traceback to its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from graft.errors import DataError

Collate = Callable[[list[Any]], Any]


class ImageLoader(DataLoader[Any]):
    """A ``DataLoader`` of samples that read images; iterating raises the ``DataError`` of the first that cannot."""

    def __init__(self, images: Dataset[Any], collate_fn: Collate | None = None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(_ReturnedErrors(images), collate_fn=_ErrorOrBatch(collate_fn or default_collate), **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names its private iterator
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
            yield batch


class _ReturnedErrors(Dataset[Any]):
    """Samples, or the ``DataError`` that reading them raises."""

    def __init__(self, images: Dataset[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]  # torch's base class does not declare it

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        try:
            return self.images[index]
        except DataError as error:
            return error


class _ErrorOrBatch:
    """The first error among samples, or a batch of them."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:  # noqa: ANN401
        error = next((sample for sample in samples if isinstance(sample, DataError)), None)
        return error or self.collate(samples)
