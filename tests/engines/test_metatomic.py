"""An exported model gives in metatomic what ``MekrrCalculator`` gives, in any folder, without this package's checkpoint."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import BackboneSpec, load_backbone, save_backbone
from mekrr_scale.errors import BackboneError, ConfigError, ModelError
from mekrr_scale.kernels import atom_kernel
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, Validation, extract, fit
from mekrr_scale.solvers import Direct
from tests.conftest import toy_energy
from tests.engines.lammps_cells import CELLS

pytest.importorskip("metatomic_ase", reason="metatomic is not installed")

from mekrr_scale.engines.metatomic import export
