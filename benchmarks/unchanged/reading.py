"""What a command left behind, as hashes and values that two runs can be compared by.

Left out, each for a reason:
- folders of the machine in texts (they become WORK): models, stores and checkpoints name files by full paths;
- of stores whose header holds such a path, hashes of whole files, names of shards and the data set's id, all of which
  hash the path too: instead every data set in every shard is hashed, and every attribute compared;
- seconds that were measured.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import torch
import xxhash
from safetensors import safe_open

SECONDS = ("seconds", "seconds_left", "per_second")
LISTED = 1000  # numbers of an array that are kept beside its hash


class Reader:
    """Reads files of a workshop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, str] = {str(folder): "WORK"}

    def plain(self, text: str) -> str:
        """A text without what names this machine's folders."""
        for told, name in self._names.items():
            text = text.replace(told, name)
        return text

    def read(self, path: Path) -> Any:
        """Whatever it is, as nested values."""
        if path.is_dir():
            return self.store(path) if (path / "manifest.json").exists() else self.folder_of(path)
        readers = {
            ".mekrr": tensors_of, ".safetensors": tensors_of, ".pt": checkpoint_of, ".traj": atoms_of,
            ".json": json_of, ".csv": text_of, ".xyz": text_of, ".jsonl": text_of,
        }  # fmt: skip
        return self._plain(readers[path.suffix](path))

    def folder_of(self, path: Path) -> dict[str, Any]:
        kinds = (".mekrr", ".safetensors", ".json")
        return {item.name: self.read(item) for item in sorted(path.iterdir()) if item.suffix in kinds}

    def store(self, path: Path) -> dict[str, Any]:
        """Every shard of a store, in the manifest's order."""
        text = (path / "manifest.json").read_text(encoding="utf-8")
        manifest = json.loads(text)
        named = str(self.folder) in text
        if named:
            for told in [manifest["id"], *(shard["path"] for shard in manifest["shards"])]:
                self._names[told] = "HASH-OF-A-PATH"
        shards = [_shard(path / shard["path"], whole=not named) for shard in manifest["shards"]]
        header = {key: value for key, value in manifest.items() if key not in ("id", "shards")}
        about = [
            {key: value for key, value in shard.items() if not named or key in ("structures", "atoms", "directions", "energies", "species", "input", "input_hash", "start", "stop")}
            for shard in manifest["shards"]
        ]  # fmt: skip
        found = {"header": header, "shards": shards, "manifest": about, **({} if named else {"id": manifest["id"]})}
        return dict(self._plain(found))

    def _plain(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.plain(value)
        if isinstance(value, dict):
            return {self.plain(str(key)): self._plain(item) for key, item in value.items() if key not in SECONDS}
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        return value


def tensors_of(path: Path) -> dict[str, Any]:
    """A model, or the state of a fit: every tensor, and the JSON documents beside them."""
    with safe_open(path, "np") as archive:
        documents = {
            key: json.loads(value) if value[:1] in "{[" else value for key, value in archive.metadata().items()
        }
        tensors = {name: array_of(archive.get_tensor(name)) for name in archive.keys()}  # noqa: SIM118  not a mapping
    for document in documents.values():  # of a model: it follows from the tensors
        if isinstance(document, dict):
            document.pop("checksum", None)
    return {**tensors, "header": documents}


def checkpoint_of(path: Path) -> dict[str, Any]:
    """A trained backbone; the file itself holds a random name."""
    data = torch.load(path, map_location="cpu", weights_only=True)
    weights = {name: hashed(tensor.contiguous().numpy()) for name, tensor in data.pop("state_dict").items()}
    return {"weights": weights, "header": json.loads(json.dumps(data, default=str))}


def atoms_of(path: Path) -> dict[str, Any]:
    """Positions, cell and results of the last frame, in full precision."""
    atoms = ase.io.read(path)
    found = {"positions": array_of(atoms.positions), "cell": array_of(atoms.cell.array)}
    results = {} if atoms.calc is None else atoms.calc.results
    return {**found, **{name: array_of(np.asarray(value)) for name, value in sorted(results.items())}}


def json_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def text_of(path: Path) -> dict[str, Any]:
    """A text by its hash; a measured time is no part of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        text = "\n".join(line.rpartition(",")[0] for line in text.splitlines())  # seconds are the last column
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "lines": text.count("\n")}


def array_of(array: np.ndarray) -> dict[str, Any]:
    """Hash, and the numbers themselves where they are few and real."""
    listed = array.dtype.kind == "f" and array.size <= LISTED
    return {"hash": hashed(array), **({"values": array.reshape(-1).tolist()} if listed else {})}


def hashed(array: np.ndarray) -> str:
    return f"{array.dtype.name} {list(array.shape)} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"


def _shard(path: Path, whole: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"xxh3_128": xxhash.xxh3_128_hexdigest(path.read_bytes())} if whole else {}
    with h5py.File(path) as file:
        found["attributes"] = {key: str(value) for key, value in sorted(file.attrs.items())}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = hashed(item[()])

        file.visititems(visit)
    return found
