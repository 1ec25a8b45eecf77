"""The file that i-PI's ``pes_path`` names; it may be copied anywhere. ``python -m`` prints where it is.

cp "$(python -m mekrr_scale.engines.mekrr_pes)" .
"""

from pathlib import Path

from mekrr_scale.engines.ipi import MekrrDriver

__all__ = ["MekrrDriver"]
__DRIVER_NAME__ = "mekrr"
__DRIVER_CLASS__ = "MekrrDriver"

if __name__ == "__main__":
    print(Path(__file__).resolve())
