"""Maps in the whitened basis, and who takes them."""

import pytest
import torch

from mekrr_scale.backbones import load_backbone
from mekrr_scale.distributed import Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import whiten
from mekrr_scale.regression import Run, Source, Structures
from mekrr_scale.solvers import Direct, Exact
from mekrr_scale.solvers.base import check
from mekrr_scale.solvers.operators import WhitenedMap
from tests.solvers.test_solvers import made


def test_a_whitened_map_is_the_product_of_matrices():
    generator = torch.Generator().manual_seed(0)
    rows, values, beta = (torch.randn(n, k, generator=generator).double() for n, k in ((7, 4), (7, 2), (3, 2)))
    gram = torch.diag(torch.tensor([4.0, 1.0, 0.5, 1e-14], dtype=torch.float64))
    whitening = whiten([gram], 1e-10)
    phi = rows @ whitening.coefficients(torch.eye(3).double())
    found = WhitenedMap(rows, whitening)
    assert found.shape == (7, 3)
    torch.testing.assert_close(found @ beta, phi @ beta)
    torch.testing.assert_close(found.T @ values, phi.T @ values)
    chosen = torch.tensor([True, False, False, True, True, False, True])
    torch.testing.assert_close(found[chosen], phi[chosen])


@pytest.mark.parametrize("solver", [Direct, Exact])
def test_solvers_that_need_the_rows_themselves_say_so(solver, spec):
    problem, source = made(n=16)
    free = Source(source.energies, structures=Structures([], load_backbone(spec)))
    with pytest.raises(ConfigError, match="matrix-free"):
        solver((1e-3,)).solve(problem, free)


def test_a_solver_of_one_process_is_not_run_in_two():
    problem, source = made(n=16)
    with pytest.raises(ConfigError, match="runs in one process, not in 2"):
        check(Exact((1e-3,)), problem, source, Run(group=Group(0, 2)))
