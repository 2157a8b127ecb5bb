"""What the environment says about kernels. Parsed once; nothing else here reads the environment."""

from functools import cache
from typing import Literal

from pydantic_settings import BaseSettings, SettingsConfigDict


class KernelSettings(BaseSettings):
    """Settings of the fused kernels, in every process that runs torch."""

    model_config = SettingsConfigDict(
        env_prefix="SANGSANG_", extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    kernels: Literal["auto", "reference", "triton"] = "auto"
    """Who computes fused operations; `auto` takes Triton where it runs, `triton` insists on it."""


@cache
def kernel_settings() -> KernelSettings:
    """Returns the settings of this process.

    Raises:
        pydantic.ValidationError: a variable has a value that is none of its choices.
    """
    return KernelSettings()
