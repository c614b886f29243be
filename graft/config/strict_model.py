"""The base class of all config sections, and constrained types of values."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
UserPath = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]  # "~" is the home folder
GreyLevel = Annotated[float, Field(ge=0, le=255)]


class StrictModel(BaseModel):
    """A config section: frozen, with strict types, no unknown keys, and finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
