"""What long work has done: a sealed file for each step, so that a kill costs no more than the step at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import JSON, Document, file_hash, is_whole, publish_text, sealed, unsealed
from mekrr_scale.progress import LOGGER


@dataclass(frozen=True)
class Steps:
    """A folder of sealed JSON files."""

    folder: Path

    def step(self, name: str, make: Callable[[], Document], output: Path | None = None) -> Document:
        """What a step found; it is made unless it was made before.

        Args:
            output: the file that it leaves, which must still be the one that it left.

        Raises:
            ConfigError: the file is another one now.
        """
        found = self.found(name)
        if found is None:
            made: dict[str, JSON] = dict(make())
            if output is not None:
                made["xxh3_128"] = file_hash(output, "xxh3_128")
            self.folder.mkdir(parents=True, exist_ok=True)
            publish_text(self.place(name), json.dumps(sealed(made), indent=2))
            return self.found(name) or made  # as one that comes after reads it
        if output is not None and (not output.is_file() or file_hash(output, "xxh3_128") != found.get("xxh3_128")):
            raise ConfigError(
                f"{output} is not what was left there; put it back, or delete {self.place(name)} and all that came "
                "after it to make it again"
            )
        return found

    def found(self, name: str) -> Document | None:
        """What a step that was made before found."""
        return read_sealed(self.place(name)) if self.has(name) else None

    def place(self, name: str) -> Path:
        """The file of a step."""
        return self.folder / f"{name}.json"

    def has(self, name: str) -> bool:
        """Whether a step was made."""
        return self.place(name).exists()


def claim(path: Path, what: str, document: Document, free: frozenset[str]) -> None:
    """The folder is of this work, or new.

    Args:
        what: the work, for messages: ``a tuning``.
        free: keys that may differ from call to call.

    Raises:
        ConfigError: it is another one's; says in what.
    """
    if not path.exists():
        publish_text(path, json.dumps(sealed(document), indent=2))
        return
    found = read_sealed(path)
    if found is None:
        raise ConfigError(f"{path} is damaged; delete the folder {path.parent}, or name another")
    plain: dict[str, JSON] = json.loads(json.dumps(document))
    differing = sorted(key for key in {*plain, *found} - free if found.get(key) != plain.get(key))
    if differing:
        raise ConfigError(
            f"{path.parent} holds {what} with other {', '.join(differing)}; name another folder, or delete this one"
        )


def read_sealed(path: Path) -> Document | None:
    """What a file of the folder holds; None where it is damaged, which is said."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not is_whole(found):
        LOGGER.warning("%s is damaged; the step is made again", path)
        return None
    return unsealed(found)
