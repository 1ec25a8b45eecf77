"""TOML files and flags to plans, and the page that documents both; the plans define them."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.config.flags import PlanOption as PlanOption
    from mekrr_scale.config.flags import plan_options as plan_options
    from mekrr_scale.config.flags import with_plan_options as with_plan_options
    from mekrr_scale.config.toml import FitConfig as FitConfig
    from mekrr_scale.config.toml import config_text as config_text
    from mekrr_scale.config.toml import load_config as load_config
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "flags": ["PlanOption", "plan_options", "with_plan_options"],
            "toml": ["FitConfig", "config_text", "load_config"],
        },
    )
