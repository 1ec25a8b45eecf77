"""What a prior is: what stores and model files say of whose energies a kernel corrects."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mekrr_scale.backbones import BackboneSpec, available_backbones, load_backbone, read_own
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import file_hash
from mekrr_scale.models.choices import JSON, Document, PriorKind
from mekrr_scale.structures import Entry, LabelKeys


@dataclass(frozen=True)
class PriorSpec:
    """What a prior is: what a store and a model file say of it.

    Args:
        kind: a fitted ``model``, the own energies of a ``backbone``, or ``labels`` in the files.
        path: of the model.
        backbone: specification of the backbone.
        keys: of the labels.
        hash: of the model's file, or of the backbone's weights.
        entry: how structures enter it.
    """

    kind: PriorKind
    path: str | None = None
    backbone: BackboneSpec | None = None
    keys: LabelKeys | None = None
    hash: str = ""
    entry: Entry = field(default_factory=Entry)

    def to_dict(self) -> dict[str, JSON]:
        """As JSON holds it; all but ``where`` must agree for two priors to be the same."""
        plain = dict(json.loads(json.dumps(asdict(self))))
        return plain | {"where": {"path": plain.pop("path"), "backbone": plain.pop("backbone")}}

    @classmethod
    def from_dict(cls, document: Document) -> PriorSpec:
        data: Any = document
        where, entry = data["where"], data["entry"]
        return cls(
            kind=data["kind"],
            path=where["path"],
            backbone=None if where["backbone"] is None else BackboneSpec(**where["backbone"]),
            keys=None if data["keys"] is None else LabelKeys(**data["keys"]),
            hash=data["hash"],
            entry=Entry(entry["length_scale"], {int(z): new for z, new in entry["species"].items()}),
        )

    @classmethod
    def parse(cls, text: str, entry: Entry, keys: LabelKeys | None = None) -> PriorSpec:
        """From what a user types: a file of a model or backbone, ``labels``, or a backbone's name.

        A backbone may be followed by its version: ``sevennet:7net-0``.

        Raises:
            ConfigError: none of these; or labels without a key.
        """
        if text == "labels":
            if keys is None or keys.energy is None:
                raise ConfigError("prior 'labels' needs the key of its energies: --prior-energy-key")
            return cls("labels", keys=keys, entry=entry)
        path = Path(text)
        if path.is_file():
            own = read_own(path)
            if own is None:
                return cls("model", path=str(path.resolve()), hash=file_hash(path, "sha256"), entry=entry)
            trained = BackboneSpec(str(own["format"]).split()[1], checkpoint=str(path.resolve()))
            return cls("backbone", backbone=trained, entry=entry)
        name, _, version = text.partition(":")
        if name not in {known for known, _, _ in available_backbones()}:
            raise ConfigError(
                f"prior {text!r}: give a file of a fitted model or of a trained backbone, the name of a backbone such "
                "as chgnet, or labels"
            )
        return cls("backbone", backbone=BackboneSpec(name, version=version or None), entry=entry)

    def pinned(self) -> PriorSpec:
        """With the hash of the backbone's weights."""
        if self.backbone is None or self.hash:
            return self
        weights = load_backbone(self.backbone).identity().weight_hash
        return replace(self, hash=weights)
