"""A fitted model as a file of metatomic, which needs neither this package nor its checkpoint."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.engines.metatomic.exporting import export as export
else:
    __getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={"exporting": ["export"]})
