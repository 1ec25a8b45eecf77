"""Kernel interatomic potentials on features of pretrained graph networks, at scale."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mekrr-scale")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"
