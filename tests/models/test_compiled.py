"""Compiled networks: the same numbers whatever is asked of them, and the network as it is where there is no compiler.

In processes of their own: functions that are checked for shapes, as those of tests are, cannot be compiled.
"""

import os
import shutil
import subprocess
import sys

import pytest

from mekrr_scale.backbones import Compiled
from mekrr_scale.models import MekrrCalculator, Potential

compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")

SAME = """
import copy, pickle, sys, warnings
warnings.simplefilter("ignore")
import torch
from mekrr_scale.models import Potential, evaluate_piece
from mekrr_scale.structures import build_graph, read_structures
from torch._dynamo.utils import counters

def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)

plain, fast = (Potential(sys.argv[1], dtype=torch.float64, compile=c) for c in (False, True))
structures = [atoms for index, atoms in enumerate(read_structures(sys.argv[2])) if index < 6]
fast.predict(structures[0])
fast = pickle.loads(pickle.dumps(copy.deepcopy(fast)))  # compiled again where it is used
for turn in range(2):
    for atoms in structures:
        stress = bool(atoms.pbc.any())
        found, expected = fast.predict(atoms, stress=stress), plain.predict(atoms, stress=stress)
        same(found.energy, expected.energy)
        same(found.forces, expected.forces)
        if stress:
            same(found.stress, expected.stress)
        alone = atoms.copy()
        alone.pbc = False
        graph = build_graph(alone, plain.backbone.cutoff)
        pieces = [evaluate_piece(potential, graph, (len(atoms) + 1) // 2) for potential in (fast, plain)]
        for name in ("energies", "forces", "virials"):
            same(*(getattr(piece, name) for piece in pieces))
    compiled = counters["stats"]["unique_graphs"]
    if turn == 0:
        first = compiled
assert 0 < first == compiled, (first, compiled)  # nothing is compiled again for other numbers of edges
print("compiled", first)
"""

WITHOUT = """
import sys, warnings
import torch
from mekrr_scale.models import Potential
from mekrr_scale.structures import read_structures
plain, fast = (Potential(sys.argv[1], dtype=torch.float64, compile=c) for c in (False, True))
structures = [atoms for index, atoms in enumerate(read_structures(sys.argv[2])) if index < 2]
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for atoms in structures:
        assert torch.equal(fast.predict(atoms).forces, plain.predict(atoms).forces)
told = [str(warning.message) for warning in told if "cannot be compiled" in str(warning.message)]
assert len(told) == 1, told
print(told[0])
"""


def executed(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@compiler
def test_compiled_networks_predict_the_same(model_file, toy_file):
    """Whole structures and pieces, other atoms and edges each time, without compiling again."""
    assert "compiled" in executed(SAME, model_file, toy_file)


def test_without_a_compiler_the_network_runs_as_it_is(model_file, toy_file, tmp_path):
    told = executed(WITHOUT, model_file, toy_file, CXX="no-such-compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert "no-such-compiler" in told
    assert "such as g++, or leave compile out" in told


def test_errors_of_the_network_stay_errors(model_file, toy_structures, monkeypatch):
    potential = Potential(model_file, dtype="float64", compile=True)
    assert isinstance(potential.on_edges, Compiled)

    def failing(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(potential.on_edges, "_network", failing)
    with pytest.raises(ZeroDivisionError):
        potential.predict(toy_structures[0])


def test_it_is_asked_for(model_file):
    for wanted in (True, False):
        calculator = MekrrCalculator(model_file, compile=wanted)
        assert isinstance(calculator.potential.on_edges, Compiled) == wanted
