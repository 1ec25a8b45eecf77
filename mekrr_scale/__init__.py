"""Kernel interatomic potentials on features of pretrained graph networks, at scale.

    import mekrr_scale as ms

    ms.extract("train.xyz", "features", ms.ExtractPlan(derivatives=8))
    report = ms.fit("features")
    report.model.save("model.mekrr")
    ms.evaluate("model.mekrr", "test.xyz")
    atoms.calc = ms.MekrrCalculator("model.mekrr")

Everything that a person at a notebook reaches for, loaded when it is asked for; the rooms behind it are in
docs/rooms.md.
"""

from typing import TYPE_CHECKING

import lazy_loader as lazy

from mekrr_scale.deprecated import install
from mekrr_scale.version import __version__ as __version__

if TYPE_CHECKING:
    from mekrr_scale.arrays import kept_memory as kept_memory
    from mekrr_scale.backbones import Backbone as Backbone
    from mekrr_scale.backbones import BackboneSpec as BackboneSpec
    from mekrr_scale.backbones import available_backbones as available_backbones
    from mekrr_scale.backbones import load_backbone as load_backbone
    from mekrr_scale.backbones import save_backbone as save_backbone
    from mekrr_scale.checks import CheckReport as CheckReport
    from mekrr_scale.checks import Thresholds as Thresholds
    from mekrr_scale.checks import check as check
    from mekrr_scale.errors import BackboneError as BackboneError
    from mekrr_scale.errors import ConfigError as ConfigError
    from mekrr_scale.errors import MekrrError as MekrrError
    from mekrr_scale.errors import ModelError as ModelError
    from mekrr_scale.errors import SimulationError as SimulationError
    from mekrr_scale.errors import SolverError as SolverError
    from mekrr_scale.errors import StoreError as StoreError
    from mekrr_scale.errors import StructureError as StructureError
    from mekrr_scale.kernels import Gaussian as Gaussian
    from mekrr_scale.kernels import GaussianSum as GaussianSum
    from mekrr_scale.kernels import Linear as Linear
    from mekrr_scale.kernels import Matern32 as Matern32
    from mekrr_scale.kernels import Matern52 as Matern52
    from mekrr_scale.kernels import Polynomial as Polynomial
    from mekrr_scale.kernels import SetKernel as SetKernel
    from mekrr_scale.kernels import SpeciesMixing as SpeciesMixing
    from mekrr_scale.labelling import LabelReport as LabelReport
    from mekrr_scale.labelling import label as label
    from mekrr_scale.landmarks import Displaced as Displaced
    from mekrr_scale.landmarks import FarthestPoint as FarthestPoint
    from mekrr_scale.landmarks import LeverageScores as LeverageScores
    from mekrr_scale.landmarks import Uniform as Uniform
    from mekrr_scale.landmarks import WholeStructures as WholeStructures
    from mekrr_scale.models import MekrrCalculator as MekrrCalculator
    from mekrr_scale.models import Model as Model
    from mekrr_scale.models import Potential as Potential
    from mekrr_scale.models import load_model as load_model
    from mekrr_scale.pipeline import BaselinePlan as BaselinePlan
    from mekrr_scale.pipeline import Evaluation as Evaluation
    from mekrr_scale.pipeline import ExtractPlan as ExtractPlan
    from mekrr_scale.pipeline import ExtractReport as ExtractReport
    from mekrr_scale.pipeline import FitPlan as FitPlan
    from mekrr_scale.pipeline import FitReport as FitReport
    from mekrr_scale.pipeline import KernelPlan as KernelPlan
    from mekrr_scale.pipeline import LandmarkPlan as LandmarkPlan
    from mekrr_scale.pipeline import LengthScale as LengthScale
    from mekrr_scale.pipeline import RowPlan as RowPlan
    from mekrr_scale.pipeline import Validation as Validation
    from mekrr_scale.pipeline import evaluate as evaluate
    from mekrr_scale.pipeline import extract as extract
    from mekrr_scale.pipeline import fit as fit
    from mekrr_scale.pipeline import predict as predict
    from mekrr_scale.regression import Execution as Execution
    from mekrr_scale.regression import Problem as Problem
    from mekrr_scale.regression import Source as Source
    from mekrr_scale.report import Results as Results
    from mekrr_scale.report import write_page as write_page
    from mekrr_scale.simulation import Bounds as Bounds
    from mekrr_scale.simulation import MdCourse as MdCourse
    from mekrr_scale.simulation import MdPlan as MdPlan
    from mekrr_scale.simulation import RelaxCourse as RelaxCourse
    from mekrr_scale.simulation import relax as relax
    from mekrr_scale.simulation import run_md as run_md
    from mekrr_scale.simulation import select as select
    from mekrr_scale.solvers import Direct as Direct
    from mekrr_scale.solvers import Exact as Exact
    from mekrr_scale.solvers import Falkon as Falkon
    from mekrr_scale.solvers import FalkonLibrary as FalkonLibrary
    from mekrr_scale.store import FeatureStore as FeatureStore
    from mekrr_scale.store import FeatureWriter as FeatureWriter
    from mekrr_scale.store import open_store as open_store
    from mekrr_scale.structures import LabelKeys as LabelKeys
    from mekrr_scale.structures import read_structures as read_structures
    from mekrr_scale.transfer import SamplePlan as SamplePlan
    from mekrr_scale.transfer import StudentSpec as StudentSpec
    from mekrr_scale.transfer import TrainPlan as TrainPlan
    from mekrr_scale.transfer import distill as distill
    from mekrr_scale.transfer import finetune as finetune
    from mekrr_scale.transfer import pretrain as pretrain
    from mekrr_scale.tuning import TunePlan as TunePlan
    from mekrr_scale.tuning import TuneReport as TuneReport
    from mekrr_scale.tuning import tune as tune
    from mekrr_scale.workflows import ExplorePlan as ExplorePlan
    from mekrr_scale.workflows import LearnPlan as LearnPlan
    from mekrr_scale.workflows import LearnReport as LearnReport
    from mekrr_scale.workflows import learn as learn
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "arrays": ["kept_memory"],
            "backbones": ["Backbone", "BackboneSpec", "available_backbones", "load_backbone", "save_backbone"],
            "checks": ["CheckReport", "Thresholds", "check"],
            "errors": [
                "BackboneError",
                "ConfigError",
                "MekrrError",
                "ModelError",
                "SimulationError",
                "SolverError",
                "StoreError",
                "StructureError",
            ],
            "kernels": [
                "Gaussian",
                "GaussianSum",
                "Linear",
                "Matern32",
                "Matern52",
                "Polynomial",
                "SetKernel",
                "SpeciesMixing",
            ],
            "labelling": ["LabelReport", "label"],
            "landmarks": ["Displaced", "FarthestPoint", "LeverageScores", "Uniform", "WholeStructures"],
            "models": ["MekrrCalculator", "Model", "Potential", "load_model"],
            "pipeline": [
                "BaselinePlan",
                "Evaluation",
                "ExtractPlan",
                "ExtractReport",
                "FitPlan",
                "FitReport",
                "KernelPlan",
                "LandmarkPlan",
                "LengthScale",
                "RowPlan",
                "Validation",
                "evaluate",
                "extract",
                "fit",
                "predict",
            ],
            "regression": ["Execution", "Problem", "Source"],
            "report": ["Results", "write_page"],
            "simulation": ["Bounds", "MdCourse", "MdPlan", "RelaxCourse", "relax", "run_md", "select"],
            "solvers": ["Direct", "Exact", "Falkon", "FalkonLibrary"],
            "store": ["FeatureStore", "FeatureWriter", "open_store"],
            "structures": ["LabelKeys", "read_structures"],
            "transfer": ["SamplePlan", "StudentSpec", "TrainPlan", "distill", "finetune", "pretrain"],
            "tuning": ["TunePlan", "TuneReport", "tune"],
            "workflows": ["ExplorePlan", "LearnPlan", "LearnReport", "learn"],
        },
    )

install()
