"""A fitted model and its file.

The file is a safetensors archive (no code can hide in it) whose header holds one JSON document
with everything that is not an array, and a checksum of both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors
import safetensors.torch
import xxhash
from jaxtyping import Float64
from safetensors import SafetensorError
from torch import Tensor

from mekrr_scale.arrays import Compression, FeatureBatch, Landmarks, error_text
from mekrr_scale.errors import ConfigError, MekrrError, ModelError
from mekrr_scale.files import final_path, is_whole, path_of, replacing, sealed, warn_unsealed
from mekrr_scale.kernels import Head, SetKernel, SpeciesMixing, Transform, atom_kernel
from mekrr_scale.models.baselines import Baseline
from mekrr_scale.models.choices import JSON, Document
from mekrr_scale.models.embedding import Weights, beside, from_beside
from mekrr_scale.models.headers import Header, KernelHeader
from mekrr_scale.models.posterior import Posterior
from mekrr_scale.outputs import MODEL, check_output

if TYPE_CHECKING:
    from ase import Atoms

FORMAT = "mekrr-scale model"
SCHEMA = "1.6"  # 1.1: posterior; 1.2: prior; 1.3: a seal over the header; 1.4: a sample; 1.5: weights; 1.6: electrons
_COMPRESSED = "2.0"  # of compressed features: what does not know them must not read it
_KEY = "mekrr_scale"
_AXES = ("mean", "basis", "spread")  # arrays of a compression
_NETWORKS = ("weights", "prior_weights")
UNITS = {"energy": "eV", "length": "angstrom", "forces": "eV/angstrom", "stress": "eV/angstrom^3"}


@dataclass(frozen=True, repr=False)
class Model:
    """An expansion over landmarks: E(x) = baseline(x) + K(x, Z) c, times n for ``mean``."""

    kernel: SetKernel
    landmarks: Landmarks
    coefficients: Float64[Tensor, " columns"]
    baseline: Baseline
    backbone: Document  # identity of what made the features
    spec: Document  # how to load it again
    validation: Document = field(default_factory=dict)
    provenance: Document = field(default_factory=dict)
    posterior: Posterior | None = None  # what its uncertainty comes from
    prior: Document = field(default_factory=dict)  # what the baseline's prior is; empty: the backbone's own
    compression: Compression | None = None  # what makes coordinates of the backbone's features
    sample: Document = field(default_factory=dict)  # one of the training structures (``sample_document``); or nothing
    weights: Weights | None = None  # of the backbone, where its file brings them along
    prior_weights: Weights | None = None  # of the network whose energies are the prior
    inner: Model | None = None  # the model that is the prior
    electrons: Document | None = None  # charge and spin of the training structures (``Electrons.document``), if known

    def __post_init__(self) -> None:
        Head(self.kernel, self.landmarks, self.coefficients)  # refuses what does not belong together

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "head"}  # which is made again

    @cached_property
    def head(self) -> Head:
        """The kernel's part."""
        return Head(self.kernel, self.landmarks, self.coefficients)

    def __repr__(self) -> str:
        from ase.data import chemical_symbols

        known = " ".join(chemical_symbols[z] for z in self.species)
        errors = {name: value for name, value in self.validation.items() if name.endswith(("mae", "rmse"))}
        shown = ", ".join(error_text(name, value) for name, value in errors.items() if isinstance(value, float))
        lines = [
            f"Model of {known}: {self.landmarks.n_sets} landmarks, {self.kernel.atom!r}, reduce {self.kernel.reduce}",
            f"  features of {self.backbone.get('name')} {self.backbone.get('version')}, {self.backbone.get('layer')}",
            f"  cross-validated: {shown or 'not'}; uncertainty: {'yes' if self.posterior else 'no'}",
        ]
        return "\n".join(lines)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that the model was fitted on."""
        return self.baseline.species

    @property
    def structure(self) -> Atoms | None:
        """One of its training structures: of lowest energy per atom, among periodic ones where there are any."""
        from ase import Atoms

        from mekrr_scale.structures import electrons_info

        return Atoms(**cast(Any, dict(self.sample)), info=electrons_info(self.electrons)) if self.sample else None

    @property
    def knows_stress(self) -> bool:
        """Whether stress was trained on, by the model or by the potential that it corrects; True where nobody says."""
        weights = self.validation.get("weights")
        return self.baseline.prior or not isinstance(weights, list) or len(weights) < 3 or bool(weights[2])

    def check_species(self, numbers: Sequence[int]) -> None:
        """Refuse elements without training data.

        Raises:
            ModelError: names them.
        """
        from ase.data import chemical_symbols

        absent = sorted({int(z) for z in numbers} - set(self.species))
        if absent:
            known = " ".join(chemical_symbols[z] for z in self.species)
            named = ", ".join(f"{z} ({chemical_symbols[z]})" for z in absent)
            raise ModelError(f"species {named} is not among the model's species {known}; refit with data that has it")

    def energies(self, batch: FeatureBatch, head: Head | None = None) -> Float64[Tensor, " structures"]:
        """Total energies (eV) of structures whose features are known.

        Args:
            head: ``head.on(device)``, to evaluate the kernel there.
        """
        self.check_species([run.z for run in batch.runs if len(run.features)])
        return self.baseline.predict(batch) + (head or self.head).energies(batch)

    def require_backbone(self, identity: Mapping[str, object], what: str) -> None:
        """Refuse features that another backbone made.

        Raises:
            ModelError: names what differs.
        """
        keys = sorted(set(self.backbone) | set(identity))
        differing = [
            f"{key} {identity.get(key)!r} instead of {self.backbone.get(key)!r}"
            for key in keys
            if _plain(identity.get(key)) != _plain(self.backbone.get(key))
        ]
        if differing:
            raise ModelError(
                f"{what} was made with another backbone than the model's: {'; '.join(differing)}. Extract the "
                "features again with the model's backbone"
            )

    def require_compression(self, hash: object, what: str) -> None:
        """Refuse features along other axes than the model's.

        Args:
            hash: of the compression; None for none.

        Raises:
            ModelError: says which were expected.
        """
        mine = None if self.compression is None else self.compression.hash
        if hash != mine:
            raise ModelError(
                f"{what} holds features along other axes (compression {hash or 'none'}) than the model's "
                f"({mine or 'none'}); extract them like the model's, with --compress and the folder of the "
                "store that it was fitted to, or without if it has none"
            )

    def require_prior(self, prior: Document, what: str) -> None:
        """Refuse energies of another prior than the model's.

        Raises:
            ModelError: says which was expected.
        """
        if not self.baseline.prior:
            return
        mine, theirs = (_plain({k: v for k, v in given.items() if k != "where"}) for given in (self.prior, prior))
        if mine != theirs:
            raise ModelError(
                f"{what} holds the energies of another prior ({theirs or 'the backbone itself'}) than the one that the "
                f"model corrects ({mine or 'the backbone itself'}); extract it again with that --prior"
            )

    def save(self, path: Path | str, overwrite: bool = False) -> None:
        """Write the model file atomically.

        Args:
            overwrite: a file that is there and no model may be replaced.

        Raises:
            ModelError: there is such a file, the name is one of another kind of file, or it cannot be written.
        """
        try:
            path = check_output(path, MODEL, overwrite)
        except ConfigError as error:
            raise ModelError(f"cannot write the model: {error}") from error
        header, tensors = self._parts(final_path(path).parent)
        metadata = {_KEY: json.dumps(sealed(header | {"checksum": _checksum(tensors)}))}
        try:
            with replacing(path) as temporary:
                safetensors.torch.save_file(tensors, temporary, metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot write the model {path}: {error}; choose a folder you may write to") from error

    def _parts(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a file in a folder holds: plain values, and arrays by name."""
        tensors = {
            "landmarks.features": self.landmarks.features.contiguous(),
            "landmarks.species": self.landmarks.species.contiguous(),
            "landmarks.owner": self.landmarks.owner.contiguous(),
            "coefficients": self.coefficients.contiguous(),
            "baseline.energies": self.baseline.energies.contiguous(),
            "transform.mean": self.kernel.transform.mean.contiguous(),
            "transform.scale": self.kernel.transform.scale.contiguous(),
        }
        if self.compression is not None:
            tensors |= {f"compression.{n}": getattr(self.compression, n).contiguous() for n in _AXES}
        if self.posterior is not None:
            tensors["posterior.factor"] = self.posterior.factor.contiguous()
        networks = {part: each for part, each in zip(_NETWORKS, self._networks, strict=True) if each is not None}
        for part, each in networks.items():
            tensors |= {f"{part}.{name}": tensor for name, tensor in each.tensors.items()}
        header: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA if self.compression is None else _COMPRESSED,
            "units": UNITS,
            "kernel": {
                "atom": self.kernel.atom.to_dict(),
                "mixing": asdict(self.kernel.mixing),
                "reduce": self.kernel.reduce,
                "transform_species": list(self.kernel.transform.species),
            },
            "landmark_sets": self.landmarks.n_sets,
            "baseline": {
                "species": list(self.baseline.species),
                "prior": self.baseline.prior,
                "fitted": self.baseline.fitted,
            },
            "backbone": dict(self.backbone),
            "spec": beside(self.spec, folder),
            "prior": beside(self.prior, folder) if self.inner is None else dict(self.prior),
            "validation": dict(self.validation),
            "provenance": dict(self.provenance),
            "posterior": None if self.posterior is None else self.posterior.header(),
            "sample": dict(self.sample),
            **({} if self.electrons is None else {"electrons": dict(self.electrons)}),
            "weights": {part: dict(each.document) for part, each in networks.items()},
        }
        if self.compression is not None:
            header["compression"] = list(self.compression.species)
        if self.inner is not None:
            header["inner"], inside = self.inner._parts(folder)
            tensors |= {f"inner.{name}": tensor for name, tensor in inside.items()}
        return header, tensors

    @property
    def unlicensed(self) -> bool:
        """Whether the file holds weights whose licence nobody said."""
        return any(each is not None and not each.licence for each in self._networks)

    @property
    def _networks(self) -> tuple[Weights | None, Weights | None]:
        return self.weights, self.prior_weights

    @classmethod
    def load(cls, path: Path | str) -> Model:
        """Read a model file.

        Raises:
            ModelError: missing, damaged, not a model, or of a newer schema.
        """
        path = path_of(path, "a model or the path of its file", ModelError, "model", "potential")
        if not path.is_file():
            raise ModelError(f"there is no model file {path}; fit one with `mekrr-scale fit`")
        try:
            with safetensors.safe_open(path, framework="pt") as archive:
                metadata = archive.metadata() or {}
                tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, OverflowError, UnicodeError) as error:
            raise ModelError(f"{path} is not a model file, or damaged ({error}); fit the model again") from error
        if _KEY not in metadata:
            raise ModelError(f"{path} is a safetensors file but not a mekrr-scale model")
        try:
            return cls._of(json.loads(metadata[_KEY]), tensors, path)
        except Exception as error:  # a damaged header may break anything that is made of it
            if isinstance(error, MekrrError):
                raise
            raise ModelError(f"the header of {path} is damaged ({error!r}); fit the model again") from error

    @classmethod
    def _of(cls, header: Header, tensors: Mapping[str, Tensor], path: Path) -> Model:
        majors = {schema.split(".", maxsplit=1)[0] for schema in (SCHEMA, _COMPRESSED)}
        if header["format"] != FORMAT or str(header["schema"]).split(".")[0] not in majors:
            raise ModelError(
                f"{path} is of {header['format']!r} {header['schema']}; this version reads {FORMAT!r} {SCHEMA}"
            )
        whole = is_whole(cast(Document, header))
        if whole is None and [int(part) for part in str(header["schema"]).split(".")] < [1, 3]:
            warn_unsealed(path)
        elif not whole:
            raise ModelError(f"the header of {path} is damaged (its checksum does not fit); copy it again or refit")
        if _checksum(tensors) != header["checksum"]:
            raise ModelError(f"{path} is damaged (its checksum does not fit); copy it again or refit")
        return cls._made(header, tensors, (path.parent, final_path(path).parent))

    @classmethod
    def _made(cls, header: Header, tensors: Mapping[str, Tensor], folders: Sequence[Path]) -> Model:
        """Of what a file holds, once it is known to be whole; of a link it is in the link's folder and in its own."""
        baseline, posterior = header["baseline"], header.get("posterior")
        weights, inner = header.get("weights", {}), header.get("inner")
        networks = [Weights(weights[part], _under(part, tensors)) if part in weights else None for part in _NETWORKS]
        prior = header.get("prior", {})
        return cls(
            kernel=_kernel(header["kernel"], tensors),
            landmarks=Landmarks(
                tensors["landmarks.features"],
                tensors["landmarks.species"],
                tensors["landmarks.owner"],
                int(header["landmark_sets"]),
            ),
            coefficients=tensors["coefficients"],
            baseline=Baseline(
                tuple(baseline["species"]), tensors["baseline.energies"], baseline["prior"], baseline["fitted"]
            ),
            backbone=header["backbone"],
            spec=from_beside(header["spec"], folders),
            validation=header["validation"],
            provenance=header["provenance"],
            posterior=None if posterior is None else Posterior.of(posterior, tensors["posterior.factor"]),
            prior=from_beside(prior, folders) if inner is None else prior,
            sample=header.get("sample", {}),
            electrons=header.get("electrons"),
            compression=_compression(header.get("compression"), tensors),
            weights=networks[0],
            prior_weights=networks[1],
            inner=None if inner is None else cls._made(inner, _under("inner", tensors), folders),
        )


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def _compression(species: Sequence[int] | None, tensors: Mapping[str, Tensor]) -> Compression | None:
    return None if species is None else Compression(tuple(species), *(tensors[f"compression.{n}"] for n in _AXES))


def _kernel(header: KernelHeader, tensors: Mapping[str, Tensor]) -> SetKernel:
    mixing = header["mixing"]
    atom = {key: tuple(v) if isinstance(v, list) else v for key, v in header["atom"].items() if key != "name"}
    return SetKernel(
        atom=atom_kernel(str(header["atom"]["name"]), **atom),
        mixing=SpeciesMixing(mixing["alpha"], tuple(mixing["species"]), tuple(map(tuple, mixing["matrix"]))),
        reduce=header["reduce"],
        transform=Transform(tuple(header["transform_species"]), tensors["transform.mean"], tensors["transform.scale"]),
    )


def _plain(value: object) -> object:
    """As JSON holds it."""
    return json.loads(json.dumps(value))


def sample_document(atoms: Atoms | None) -> dict[str, JSON]:
    """A geometry as model files hold it; of none an empty one."""
    if atoms is None:
        return {}
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def load_model(path: Path | str) -> Model:
    """Read a model file.

    Raises:
        ModelError: missing, damaged, not a model, or of a newer schema.
    """
    return Model.load(path)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
