"""What every section of the configuration is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo


def resolve_path(value: Any, info: ValidationInfo) -> Any:
    """A path relative to the folder of the file, which is the validation context's ``folder``."""
    folder = (info.context or {}).get("folder", Path.cwd())
    return folder / Path(value).expanduser() if isinstance(value, str | Path) and str(value) else value


SettingPath = Annotated[Path, BeforeValidator(resolve_path)]


class Section(BaseModel):
    """What all sections share: frozen, no unknown keys, defaults checked like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
