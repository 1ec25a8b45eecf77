"""A calculator as a text names it: ``emt``, ``tblite(accuracy=0.1)``, ``module:Class(arg=1)``, ``backbone:chgnet``.

Arguments are keywords with literal values, read and never run. A class that a file names (a TOML of ``learn``) is code
of whoever wrote the file: it needs the user's word that this is trusted, as checkpoints that hold code do.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ase.calculators.calculator import BaseCalculator

from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, code_is_trusted, load_backbone
from mekrr_scale.errors import ConfigError, suggestion
from mekrr_scale.models import PredictorCalculator

# calculators with names of their own: module, class, and how to get them
NAMED: Mapping[str, tuple[str, str, str]] = {
    "emt": ("ase.calculators.emt", "EMT", "pip install ase"),
    "tblite": ("tblite.ase", "TBLite", "pip install tblite (or: conda install -c conda-forge tblite-python)"),
}
_BACKBONE = "backbone:"
_TEXT = re.compile(r"([A-Za-z_][\w.]*)(?::([A-Za-z_]\w*))?\s*(\(.*\))?", re.DOTALL)
_PLAIN = "write keywords with plain values, e.g. (method='GFN2-xTB', accuracy=0.1)"
_HOW = "write emt, tblite(method='GFN2-xTB'), module:Class(arg=1) or backbone:chgnet"


@dataclass(frozen=True)
class CalculatorSpec:
    """Which calculator, in plain values.

    Args:
        text: as it was written.
        module: to import; empty for a backbone.
        name: of the class; or the backbone's.
        arguments: keywords of the class.
    """

    text: str
    module: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, from_file: bool = False) -> CalculatorSpec:
        """From what a person writes; nothing is imported yet.

        >>> CalculatorSpec.parse("ase.calculators.lj:LennardJones(epsilon=0.1, rc=6.0)").arguments
        {'epsilon': 0.1, 'rc': 6.0}

        Args:
            from_file: a file says so, not the user: a class is refused unless code in files is trusted.

        Raises:
            ConfigError: no such text, arguments that are no literals, or a class without trust.
        """
        text = text.strip()
        if text.startswith(_BACKBONE):
            name = text.removeprefix(_BACKBONE)
            BackboneSpec.parse(name)
            return cls(text, "", name)
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ConfigError(f"{text!r} names no calculator; {_HOW}")
        first, second, given = found.groups()
        arguments = _arguments(text, given or "()")
        if second is None:
            if first not in NAMED:
                raise ConfigError(f"there is no calculator {first!r}. {suggestion(first, NAMED)}; or {_HOW}")
            return cls(text, *NAMED[first][:2], arguments)
        if from_file and not code_is_trusted():
            raise ConfigError(
                f"a file names the calculator {text!r}, which runs code of the module {first}. If you trust where the "
                "file comes from, pass --trust-code (trust_code=True in Python)"
            )
        return cls(text, first, second, arguments)

    @property
    def shared(self) -> bool:
        """Whether one serves all frames without a trace of those before: a network does."""
        return not self.module

    @property
    def reads_files(self) -> bool:
        """Whether an argument names a file or a folder, which may be another one tomorrow: weights, parameters.

        However deep: arguments are literals, so that their texts are those of their code.
        """
        parts = ast.walk(ast.parse(repr(dict(self.arguments))))
        texts = [part.value for part in parts if isinstance(part, ast.Constant)]
        return any(isinstance(text, str) and os.path.exists(text) for text in texts)

    def make(self) -> BaseCalculator:
        """The calculator.

        Raises:
            ConfigError: it is not installed, there is no such class, or it does not take the arguments.
            BackboneError: the backbone cannot be loaded.
        """
        if not self.module:
            return PredictorCalculator(BackboneEnergies(load_backbone(BackboneSpec.parse(self.name))))
        try:
            made = getattr(importlib.import_module(self.module), self.name)(**self.arguments)
        except AttributeError as error:
            raise ConfigError(f"calculator {self.text!r}: {error}") from error
        except ImportError as error:
            how = next((how for module, _, how in NAMED.values() if module == self.module), "install its package")
            raise ConfigError(f"calculator {self.text!r} cannot be imported ({error}); {how}") from error
        except Exception as error:  # whatever a calculator says of its arguments
            raise ConfigError(f"calculator {self.text!r} cannot be made: {type(error).__name__}: {error}") from error
        if not hasattr(made, "get_property"):
            raise ConfigError(f"calculator {self.text!r}: {type(made).__name__} is no calculator of ASE's")
        return made


def _arguments(text: str, given: str) -> dict[str, Any]:
    """Keywords of a call whose values are literals.

    Raises:
        ConfigError: something else.
    """
    try:
        call = ast.parse(f"f{given}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is no list of arguments")
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("arguments are given by name")
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ConfigError(f"calculator {text!r}: {error}; {_PLAIN}") from None
    found = {}
    for keyword in call.keywords:
        try:
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError):
            shown = ast.unparse(keyword.value)
            raise ConfigError(f"calculator {text!r}: {keyword.arg} = {shown} is no plain value; {_PLAIN}") from None
    return found
