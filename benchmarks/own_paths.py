"""SevenNet's own pair style, from the source in its wheel, compiled as a plugin of the LAMMPS that is installed: for the record."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import lammps
import sevenn
import torch
from sevenn.scripts.deploy import deploy
from torch.utils import cpp_extension

from mekrr_scale.errors import ConfigError

STYLE = "e3gnn"
GLUE = r"""
#include "lammps.h"
#include "pair_e3gnn.h"

void pair_e3gnn_oeq_register_autograd() {}  // of its kernels for GPUs

extern "C" {

struct Plugin {
  const char *version, *style, *name, *info, *author;
  void *(*create)(void *);
  void *handle;
};

static void *create(void *lmp) { return new LAMMPS_NS::PairE3GNN((LAMMPS_NS::LAMMPS *) lmp); }

void lammpsplugin_init(void *lmp, void *handle, void *enter)
{
  Plugin plugin = {((LAMMPS_NS::LAMMPS *) lmp)->version, "pair", "e3gnn", "SevenNet's", "Y. Park", create, handle};
  ((void (*)(Plugin *, void *)) enter)(&plugin, lmp);
}
}
"""


def sevennets(folder: Path) -> Path:
    """Build ``pair_style e3gnn`` into a folder (one rank, float32); returns 7net-0 as the file of its ``pair_coeff``.

    Raises:
        ConfigError: there is no compiler, or it fails.
    """
    if shutil.which("g++") is None:
        raise ConfigError("SevenNet's pair style needs g++")
    source = Path(sevenn.__file__).parent / "pair_e3gnn"
    (folder / "glue.cpp").write_text(GLUE)
    (folder / "neigh_request.h").touch()  # which LAMMPS' wheel lacks, and nothing here is taken from
    (mpi,) = (file for file in metadata.files("mpich") or [] if file.name == "mpi.h")
    libraries = Path(torch.__file__).parent / "lib"
    include = [*cpp_extension.include_paths(), source, Path(lammps.__file__).parent / "include" / "lammps"]
    command = [
        "g++", "-std=c++20", "-O2", "-fPIC", "-shared", "-DLAMMPS_SMALLBIG",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(f"-I{path}" for path in (folder, *include, Path(str(mpi.locate())).resolve().parent)),
        str(source / "pair_e3gnn.cpp"), str(folder / "glue.cpp"), f"-L{libraries}", f"-Wl,-rpath,{libraries}",
        "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(folder / "e3gnnplugin.so"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"g++ cannot compile SevenNet's pair style:\n{done.stderr[-2000:]}")
    deploy("7net-0", str(folder / "e3gnn.pt"))
    return folder / "e3gnn.pt"
