"""What to fit: nested plans that are the sections of a TOML file and the groups of the flags. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf

from mekrr_scale import kernels, landmarks, solvers
from mekrr_scale.arrays import RowKind
from mekrr_scale.deprecated import flat_keywords
from mekrr_scale.errors import ConfigError, require_known, suggestion
from mekrr_scale.kernels import Reduce, Standardize
from mekrr_scale.landmarks import Balance
from mekrr_scale.models import BaselineKind, WhiteningMethod
from mekrr_scale.pipeline.fitting.values import (
    DEFAULT_WEIGHTS,
    LengthScale,
    alpha,
    by_kind,
    by_symbol,
    chosen,
    comparison,
    factors_by_config,
    kernel_parameters,
    mixing_rows,
    named_by_kind,
    nonempty,
    numbers,
    sigmas_by_config,
)
from mekrr_scale.plans import Given, Numbers, fields_of, flag, listed, plan, preset
from mekrr_scale.regression import Execution

Fields = Mapping[str, object]  # by name
_METHODS = {"auto": "", **landmarks.METHODS}


@plan
class KernelPlan:
    """What atoms and structures are compared with. Lists are candidates; cross-validation chooses among them."""

    name: Annotated[str, chosen("kernel", kernels.KERNELS), flag("--kernel", choices=kernels.KERNELS)] = "gaussian"
    """Kernel between the features of two atoms. gaussian is right unless you know better."""

    length_scales: Annotated[
        Given[tuple[InstanceOf[LengthScale], ...], LengthScale | Numbers | Sequence[LengthScale | float | str]],
        nonempty("length_scales"),
        listed(LengthScale.parse),
        flag("--length-scale"),
    ] = preset(default=(LengthScale(4.0), LengthScale(16.0)))
    """Length scales, e.g. 4x,16x: multiples of the median distance between atoms' features, or plain numbers. Longer
    ones make smoother potentials; gaussian-sum takes all of them at once."""

    alphas: Annotated[Given[tuple[float, ...], Numbers], nonempty("alphas"), listed(alpha), flag("--alpha")] = preset(
        default=(1.0,)
    )
    """How far elements are kept apart, between 0 (all alike) and 1 (apart), e.g. 0,0.5,1. Lower values let rare
    elements learn from common ones."""

    mixing: Annotated[
        Given[Mapping[str, tuple[float, ...]] | Literal["learn"] | None, Mapping[str, Sequence[float]]],
        BeforeValidator(mixing_rows),
        flag("--mixing"),
    ] = preset(default=None)
    """How much elements share, instead of alpha: learn, by cross-validation (reduce sum), or rows of a matrix by
    element, e.g. { H = [1.0, 0.2], O = [0.2, 1.0] }."""

    reduce: Annotated[Reduce, flag("--reduce")] = "sum"
    """sum: energies add up over atoms, for structures of different size; mean: energies per atom, as MEKRR."""

    standardize: Annotated[
        Given[tuple[Standardize, ...], str | Sequence[Standardize]],
        nonempty("standardize"),
        listed(str),
        flag("--standardize"),
    ] = preset(default=("centre-per-species",))
    """What features pass first: none, centre, scale, centre-per-species, scale-per-species. Centred per species, errors
    were lowest on most of eleven data sets."""

    parameters: Annotated[
        Given[Mapping[str, int | float], str], BeforeValidator(kernel_parameters), flag("--kernel-parameters")
    ] = preset(default_factory=dict)
    """Further parameters of the kernel, e.g. offset=1,degree=2 of polynomial."""


@plan
class BaselinePlan:
    """What is taken off the labels before the kernel sees them."""

    kinds: Annotated[
        Given[tuple[BaselineKind, ...] | None, str | Sequence[BaselineKind]],
        nonempty("kinds"),
        listed(str),
        flag("--baseline"),
    ] = preset(default=None)
    """Candidates: composition (energies of elements by least squares), isolated (given ones), backbone (the pretrained
    potential's own energies and forces as well), prior (those of extract --prior). By default what the store allows.
    One with a prior's energies, which hold far outside the data, stays unless another error is lower by 2 %."""

    isolated: Annotated[
        Given[Mapping[str, float], Mapping[int, float] | str], BeforeValidator(by_symbol), flag("--isolated")
    ] = preset(default_factory=dict)
    """Energies of isolated atoms (eV) for kind isolated, e.g. H=-13.6,O=-432; by default those of the data's frames of
    one atom without neighbours."""


@plan
class LandmarkPlan:
    """The atoms, or structures, that the model is an expansion over."""

    method: Annotated[str, chosen("landmark method", _METHODS), flag("--method", choices=_METHODS)] = "auto"
    """How landmarks are chosen. auto: at random, by element (uniform); where there are fewer distinct atoms than that,
    and tangents, copies displaced along these are added (displaced). structures takes whole ones."""

    count: Annotated[int, flag("--landmarks")] = Field(default=1000, ge=0)
    """Number of landmarks; more are more accurate, cost goes with their square or cube. 0 with method structures: all
    of them."""

    model: Annotated[Given[Path | None, str], flag("--landmarks-from")] = preset(default=None)
    """A model whose landmarks are taken too (same backbone), for transfer to few new data."""

    balance: Annotated[Balance, flag("--balance")] = "sqrt"
    """Shares of the elements: proportional to their atoms, to the square root (rare ones get more), or equal."""

    grow_to: Annotated[int, flag("--grow-landmarks")] = Field(default=0, ge=0)
    """Double the number of the chosen candidate's landmarks up to this one, as long as the cross-validated error falls
    by a per cent or more and memory allows; rows are made of new landmarks alone. 0: not."""


@plan
class RowPlan:
    """The rows of the least-squares problem: which, how they are weighted, in which basis."""

    weights: Annotated[
        Given[Mapping[str, tuple[float, ...]], Fields | Mapping[RowKind, object] | Sequence[Numbers]],
        by_kind(DEFAULT_WEIGHTS, numbers),
    ] = preset(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    """Candidates for the weights of energy, force and stress rows. Raise the force weight where forces matter more than
    energies. Stress is weighed 0.001 where stores hold stress rows (extract --strain), unless a weight is given."""

    store_weights: Annotated[Given[tuple[float, ...], Numbers], listed(float), flag("--store-weight")] = preset(
        default=()
    )
    """Weights of the stores' rows, one for each store, e.g. 0.01,1 for much source and little target data."""

    derivatives: Annotated[bool, flag("--derivatives/--no-derivatives")] = True
    """Train on forces and stress where the stores hold tangents."""

    cut: Annotated[float, flag("--cut")] = Field(default=1e-11, gt=0, lt=1)
    """Cut of the whitening: directions of the landmarks' kernel matrix with a smaller part of its largest eigenvalue
    are left out. 1e-8 loses accuracy."""

    whitening: Annotated[WhiteningMethod, flag("--whitening")] = "eigen"
    """eigen, or cholesky (pivoted; about ten times cheaper above some thousand landmarks)."""

    energy_precision: Annotated[Literal["float64", "float32"], flag("--energy-precision")] = "float64"
    """Precision of kernel elements in energy rows; float32 gave 8.6 instead of 2.2 meV/atom on real features."""

    derivative_precision: Annotated[Literal["float64", "float32"], flag("--derivative-precision")] = "float32"
    """Precision of kernel elements in derivative rows; sums over atoms are float64 always."""

    config_weights: Annotated[
        Given[Mapping[str, tuple[float, ...]], Fields | str], BeforeValidator(factors_by_config), flag("--weight")
    ] = preset(default_factory=dict)
    """Factors for structures of a configuration type, e.g. bulk=10, or of one kind of their rows, liquid:force=0.1. A
    structure of weight 2 counts like two of it, in the baseline and in cross-validated errors too; 0 leaves it out.
    Weights that frames bring along (info energy_weight, forces_weight, stress_weight) are multiplied by them."""

    sigmas: Annotated[
        Given[Mapping[str, tuple[float, ...]], Fields | str], BeforeValidator(sigmas_by_config), flag("--sigma")
    ] = preset(default_factory=dict)
    """Instead of weights: expected errors energy:force:virial (eV/atom, eV/angstrom, eV/atom) of configuration types
    and of all others (default), in gap_fit's form, e.g. default=0.001:0.1:0.05,liquid=0.003:0.3. One over their squares
    weighs a structure's mean squared errors, where gap_fit sums those of its components and atoms."""

    drop_outliers: Annotated[bool, flag("--drop-outliers/--keep-outliers")] = False
    """Fit again without the structures whose labels are far from what the models of the other folds give. Look at the
    table first: what is unlike all else may be what the model needs most."""


@plan
class Validation:
    """How candidates are compared, and what is learned from the comparison."""

    folds: Annotated[int, flag("--validate")] = Field(default=5, ge=0)
    """Folds of the cross-validation; 0 for none. Named trajectories, copies and consecutive frames that are alike stay
    together, and the fit says so."""

    criterion: Annotated[
        Given[Mapping[str, float] | Literal["balanced"], Mapping[RowKind, float] | str | Sequence[float]],
        BeforeValidator(comparison),
        flag("--criterion"),
    ] = preset(default="balanced")
    """What chooses among candidates. balanced: the geometric mean of the errors of all kinds of rows that are weighed,
    so that one per cent in forces is worth one per cent in energies, and of the folds, where they hold sixteen
    structures or more. Or weights of the mean squared errors of energies (eV/atom), forces (eV/angstrom) and virials
    per atom (eV) whose sum is to be least, e.g. 1,1e-4,0, which summed stands for."""

    uncertainty: Annotated[bool, flag("--uncertainty/--no-uncertainty")] = True
    """Keep the posterior that tells how sure the model is; needs folds, and two more passes over the rows."""


def _solver(value: Any) -> Any:
    """A solver or its class, its name, or a section with a name."""
    if isinstance(value, solvers.Solver):
        return value() if isinstance(value, type) else value
    if not isinstance(value, str | Mapping):
        raise ConfigError(f"{value!r} is no solver; give one, e.g. Falkon(ridges=1e-6), or the name of one")
    given = {"name": value} if isinstance(value, str) else dict(value)
    name = given.pop("name", "direct")
    require_known("there is no solver", name, solvers.SOLVERS)
    made: type = getattr(solvers, solvers.SOLVERS[name])
    unknown = sorted(set(given) - set(fields_of(made)))
    if unknown:
        raise ConfigError(f"solver {name!r} has no option {unknown[0]!r}. {suggestion(unknown[0], fields_of(made))}")
    return made(**given)


def _section(made: type, name: str) -> BeforeValidator:
    """A plan, its fields, or the one value that people mean by its name."""

    def read(value: Any) -> Any:
        if isinstance(value, made):
            return value
        return made(**(value if isinstance(value, Mapping) else section_of(name, value)))

    return BeforeValidator(read)


# the field that a section stands for where it is one value
SHORT = {
    "kernel": "name",
    "landmarks": "method",
    "baseline": "kinds",
    "rows": "weights",
    "solver": "name",
    "validation": "folds",
    "execution": "device",
}


def section_of(name: str, value: object) -> dict[str, object]:
    """The section that one value stands for; ``landmarks`` may be their number as well as a method.

    Also of ``weights``: those by kind of rows, of a list or a text in their order.
    """
    if name == "weights":
        return named_by_kind(value)
    number = isinstance(value, int) and not isinstance(value, bool)
    return {"count" if name == "landmarks" and number else SHORT[name]: value}


@flat_keywords(section_of)
@plan
class FitPlan:
    """What to fit. Lists are candidates; cross-validation chooses among them.

    Raises:
        ConfigError: an option outside its range, or a combination that cannot be.
    """

    kernel: Annotated[Given[KernelPlan, Fields | str], _section(KernelPlan, "kernel")] = preset(default=KernelPlan())
    """What atoms and structures are compared with; or the name of a kernel."""

    landmarks: Annotated[Given[LandmarkPlan, Fields | int | str], _section(LandmarkPlan, "landmarks")] = preset(
        default=LandmarkPlan()
    )
    """What the model is an expansion over; or their number, or the name of a method."""

    baseline: Annotated[
        Given[BaselinePlan, Fields | str | Sequence[BaselineKind]], _section(BaselinePlan, "baseline")
    ] = preset(default=BaselinePlan())
    """What is taken off the labels; or names of baselines."""

    rows: Annotated[Given[RowPlan, Fields], _section(RowPlan, "rows")] = preset(default=RowPlan())
    """Which rows, and their weights."""

    solver: Annotated[
        Given[InstanceOf[solvers.Solver], type[solvers.Solver] | Fields | str],
        BeforeValidator(_solver),
        flag("--solver", choices=solvers.SOLVERS),
    ] = preset(default_factory=solvers.Direct)
    """direct (one pass, then every ridge, weight and fold) up to some thousand landmarks, falkon (conjugate gradients)
    beyond, exact (dense) for small data; or a solver with its options."""

    validation: Annotated[Given[Validation, Fields | int], _section(Validation, "validation")] = preset(
        default=Validation()
    )
    """How candidates are compared; or a number of folds."""

    execution: Annotated[Given[Execution, Fields | str], _section(Execution, "execution")] = preset(default=Execution())
    """Where it runs; or a device."""

    seed: Annotated[int, flag("--seed")] = Field(default=0, ge=0)
    """Random seed of landmarks and samples."""

    embed: Annotated[bool, flag("--embed/--no-embed")] = True
    """Take into the model's file what it needs to predict and no installed wheel holds: weights from a checkpoint, and
    the model that it corrects. Without it the file names them by their place beside it."""

    licence: Annotated[str, flag("--licence")] = ""
    """Licence of weights that are taken in, in words, e.g. 'CC BY 4.0'; kept in the model, and shown by info."""

    def __post_init__(self) -> None:
        learned, folds = self.kernel.mixing == "learn", self.validation.folds
        if any(not weight > 0 for weight in self.rows.store_weights):
            raise ConfigError(f"weights of stores {self.rows.store_weights}: give positive numbers")
        if learned and (not folds or self.kernel.reduce != "sum" or not self.solver.takes.sums):
            raise ConfigError("a mixing matrix is learned by cross-validation, for reduce 'sum' and solver 'direct'")
        whole = self.landmarks.method == "structures" or self.solver.whole_structures
        if self.landmarks.model is not None and whole:
            raise ConfigError("a model's landmarks are joined by single atoms only, not by whole structures")
        if not self.landmarks.count and self.landmarks.model is None and not whole:
            raise ConfigError("0 landmarks asked for; ask for at least one")
        self._check_growth()
        if folds == 1:
            raise ConfigError("1 folds: give at least 2, or 0 to skip cross-validation")
        if not folds and self._n_candidates() > 1:
            raise ConfigError(
                "several candidates but no folds to choose among them; give one of each (length scale, alpha, "
                "standardize, ridge, baseline, weights of the kinds of rows), or --validate 5"
            )

    def _check_growth(self) -> None:
        if not self.landmarks.grow_to:
            return
        if not self.validation.folds:
            raise ConfigError("landmarks grow by the cross-validated error; give folds (--validate 5)")
        if self.landmarks.method == "structures" or self.solver.whole_structures:
            raise ConfigError("landmarks grow by single atoms only, not by whole structures")

    def _n_candidates(self) -> int:
        lengths = self.kernel.length_scales if self.kernel.name != "gaussian-sum" else (0,)
        kinds = self.baseline.kinds or (0,)
        # lists that nobody wrote are no wish to try them: without folds the first of each is taken, and it is said
        weights = [given for name, given in self.rows.weights.items() if given != DEFAULT_WEIGHTS[name]]
        lists = (lengths, self.kernel.alphas, self.kernel.standardize, self.solver.ridges, kinds, *weights)
        return math.prod(map(len, lists))
