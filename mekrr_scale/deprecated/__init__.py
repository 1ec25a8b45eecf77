"""What version 0.1.0 had elsewhere; the only place that knows, for one release."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.deprecated.keywords import flat_keywords as flat_keywords
    from mekrr_scale.deprecated.keywords import moved_keys as moved_keys
    from mekrr_scale.deprecated.modules import MOVED as MOVED
    from mekrr_scale.deprecated.modules import install as install
    from mekrr_scale.deprecated.modules import with_old_names as with_old_names
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "keywords": ["flat_keywords", "moved_keys"],
            "modules": ["MOVED", "install", "with_old_names"],
        },
    )
