"""How structures become features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import JSON, parse_bytes
from mekrr_scale.models import PriorSpec
from mekrr_scale.pipeline.workers import atoms_at_once, processes
from mekrr_scale.plans import Given, plan, preset
from mekrr_scale.store import OnDuplicate, Reduction, StoreHeader
from mekrr_scale.structures import CONFIG_KEY, Entry, LabelKeys

_PARTS = 999_999


def _backbone(value: Any) -> Any:
    """A backbone's name, with layer and invariants behind colons: ``chgnet:conv4``, ``sevennet:gate1:norms``."""
    return BackboneSpec.parse(value) if isinstance(value, str) else value


def _prior(value: Any) -> Any:
    """A path or name, as ``extract --prior`` takes it."""
    return PriorSpec.parse(str(value), Entry()) if value is not None and not isinstance(value, PriorSpec) else value


@plan
class ExtractPlan:
    """How structures become features.

    Raises:
        ConfigError: an option outside its range.
    """

    backbone: Annotated[Given[InstanceOf[BackboneSpec], str], BeforeValidator(_backbone)] = preset(
        default_factory=BackboneSpec
    )
    """The network whose per-atom features are taken; also a name, ``name:layer`` or ``name:layer:invariants``."""

    keys: InstanceOf[LabelKeys] = Field(default_factory=LabelKeys)
    """Where labels stand in the files, and in which units; by default ASE's results in eV and angstrom."""

    derivatives: int | Literal["all", "none"] = "none"
    """Tangents, to train on forces: along ``all`` 3n displacements, along that many random orthonormal directions per
    structure, or ``none``. The store grows by as many features."""

    strain: bool = False
    """Tangents along the six strains too, where a stress is known: to train on stress."""

    part: tuple[int, int] = (1, 1)
    """(i, n): do the i-th of n parts (from 1); parts may run side by side."""

    shard_bytes: Annotated[Given[int, str], BeforeValidator(parse_bytes)] = preset(default=32 * 1024**2)
    """Features per shard, e.g. 32M."""

    shard_work: int = 160_000
    """Work per shard, as atoms times (1 + 3 directions), which is what a kill can lose: at most two minutes of CHGNet
    on two cores. 0 for no bound: shards are closed by their size alone."""

    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the features."""

    tangent_dtype: Literal["auto", "same", "float16"] = "auto"
    """``float16`` with a scale for each row: half the store, no measurable loss; ``same`` as the features. ``auto``: as
    in the store where there is one already, else ``float16`` where features are float32."""

    compress: int | str | Path | None = None
    """Features as that many coordinates along principal axes, which a sample of the structures decides before the
    first is written; or, by its folder, along the axes of another store. None: as the backbone gives them, unless
    ``residual`` says else."""

    residual: float | None = None
    """As many coordinates as lose no more than this part of the features' variance and of the tangents' square, of
    every element of the sample."""

    basis: Literal["species", "common"] = "species"
    """Axes of each element, for kernels under which elements never meet (alpha = 1), or common ones, for all."""

    device: str = "cpu"
    """torch device of the backbone, e.g. cuda."""

    batch_atoms: int | None = None
    """Atoms that the backbone sees at once; None: 64 on a CPU, in whose cache that much stays, and 256 elsewhere."""

    workers: int | None = None
    """Processes that compute features side by side on a CPU, with one thread each. None: as many as this process may
    have threads; 1: this one alone, with all its threads."""

    group_key: str | None = None
    """Info key of the trajectory that a structure belongs to, kept together in cross-validation."""

    config_key: str | None = CONFIG_KEY
    """Info key of the configuration type, by which a fit can weigh frames (``fit --weight``) and errors are told."""

    need_energy: bool = True
    """Leave out structures without an energy."""

    ignore_charge: bool = False
    """Take structures of several charges or spins, which features do not know; refused otherwise."""

    format: str | None = None
    """ASE's name of the files' format, where their names do not tell."""

    seed: int = Field(default=0, ge=0)
    """Of the random directions."""

    prior: Annotated[Given[InstanceOf[PriorSpec] | None, str | Path], BeforeValidator(_prior)] = preset(default=None)
    """Whose energies and forces are kept beside the labels, for a fit that corrects them: a model's file, a backbone;
    by default the backbone's own."""

    on_duplicate: Literal["error", "newest", "keep"] = "error"
    """Where labels of one geometry differ between files: ``error``, take the ``newest``, or ``keep`` all. Labels that
    changed in the same file are a correction: the newer count. ``error``, the default, is what the folder was told
    before, if it was told anything."""

    def __post_init__(self) -> None:
        index, count = self.part
        if not 1 <= index <= count:
            raise ConfigError(f"part {index}/{count}: parts are counted from 1, e.g. --part 1/{max(count, 1)}")
        if isinstance(self.derivatives, int) and self.derivatives < 1:
            raise ConfigError(
                f"{self.derivatives} directions per structure asked for; give a positive number, all or none"
            )
        if count > _PARTS:
            raise ConfigError(f"part {index}/{count}: there are at most {_PARTS} parts")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} is negative; give 0 or a positive number")
        if self.shard_work < 0:
            raise ConfigError(f"{self.shard_work} is no amount of work per shard; give a positive number, or 0 for any")
        _ = self.reduction  # refuses what makes no sense
        if self.shard_bytes < 1 or self.atoms_at_once < 1:
            raise ConfigError("shard size and batch size must be positive")
        _ = self.processes(0)

    @property
    def policy(self) -> OnDuplicate | None:
        """What ``finalize`` is told of duplicates; None: what the folder was told before."""
        return None if self.on_duplicate == "error" else self.on_duplicate

    @property
    def moves(self) -> bool:
        """Whether tangents are stored."""
        return self.derivatives != "none" or self.strain

    def settled(self, header: StoreHeader | None) -> ExtractPlan:
        """With what depends on the store that it goes on with, if there is one."""
        if self.tangent_dtype != "auto":
            return self
        begun = header is not None and bool(header.directions)
        half = header.half_tangents if header is not None and begun else self.dtype == "float32"
        return replace(self, tangent_dtype="float16" if half else "same")

    @property
    def reduction(self) -> Reduction | None:
        """How features are compressed."""
        return Reduction.given(self.compress, self.residual, self.basis)

    @property
    def atoms_at_once(self) -> int:
        """That the backbone sees."""
        return atoms_at_once(self.device) if self.batch_atoms is None else self.batch_atoms

    def processes(self, structures: int) -> int:
        """How many compute side by side."""
        return processes(self.workers, self.device, structures)

    @property
    def feature_bytes(self) -> int:
        """Of one number."""
        return 8 if self.dtype == "float64" else 4

    def directions(self) -> dict[str, JSON]:
        """What a store says of its tangents."""
        if not self.moves:
            return {}
        return {
            "displacements": self.derivatives,
            "strains": 6 if self.strain else 0,
            "draw": "orthonormal, numpy default_rng([seed, structure id])",
            "seed": self.seed,
            **({"dtype": "float16"} if self.tangent_dtype == "float16" else {}),
        }
