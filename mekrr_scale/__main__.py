"""``python -m mekrr_scale`` and ``mekrr-scale``."""

from mekrr_scale.cli import main

if __name__ == "__main__":
    main()
