"""Atom and set kernels and their derivative rows against slow twins and finite differences."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr_scale.arrays import FeatureBatch, bounds
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import (
    Gaussian,
    GaussianSum,
    Linear,
    Matern32,
    Matern52,
    Polynomial,
    SetKernel,
    SpeciesMixing,
    atom_kernel,
    sums,
)
from mekrr_scale.landmarks import Uniform, WholeStructures
from mekrr_scale.transforms import Transform, fit_transform
from tests import reference

KERNELS = [
    Gaussian(1.7),
    Matern32(2.1),
    Matern52(1.3),
    GaussianSum((0.8, 3.0)),
    Linear(1.5, 0.4),
    Polynomial(3, 1.4, 0.7),
]
MIXINGS = [
    ("sum", SpeciesMixing(0.0)),
    ("sum", SpeciesMixing(0.4)),
    ("sum", SpeciesMixing(1.0)),
    ("sum", SpeciesMixing(0.0, (1, 6, 8), ((1.0, 0.2, 0.0), (0.2, 0.9, -0.3), (0.0, -0.3, 1.1)))),
    ("mean", SpeciesMixing(0.0)),
    ("mean", SpeciesMixing(0.4)),
    ("mean", SpeciesMixing(1.0)),
]


def check_kernel(kernel):
    """What every atom kernel has to satisfy; a kernel of your own earns its tests by this call."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    expected = torch.tensor([[reference.atom_kernel_value(kernel, a, b) for b in y] for a in x], dtype=torch.float64)
    torch.testing.assert_close(kernel.gram(x, y), expected, rtol=1e-12, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(kernel.gram(x, x))
    assert eigenvalues[0] > -1e-10 * eigenvalues[-1]
    # derivative along a tangent, and its adjoint, against automatic differentiation
    tangent = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    t = kernel.left(x) @ kernel.right(y).T
    slope = kernel.slope(t)
    found = slope * (kernel.left_tangent(x, tangent) @ kernel.right(y).T)
    step = 1e-6
    difference = (kernel.gram(x + step * tangent, y) - kernel.gram(x - step * tangent, y)) / (2 * step)
    torch.testing.assert_close(found, difference, rtol=1e-7, atol=1e-8)
    gradient = kernel.left_pullback(x, slope @ kernel.right(y))
    torch.testing.assert_close((gradient * tangent).sum(1), found.sum(1), rtol=1e-10, atol=1e-10)
    assert atom_kernel(**kernel.to_dict()) == kernel


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_atom_kernels(kernel):
    check_kernel(kernel)


@pytest.mark.parametrize("standardize", ["none", "scale-per-species"])
@pytest.mark.parametrize(("reduce", "mixing"), MIXINGS)
@pytest.mark.parametrize("atom", KERNELS[:2] + KERNELS[4:5], ids=lambda k: k.name)
def test_rows_equal_double_loops(atom, reduce, mixing, standardize):
    batch, train = reference.random_batch(0), reference.random_batch(1, n_structures=8)
    kernel = SetKernel(atom, mixing, reduce, fit_transform([train], standardize))
    landmarks = WholeStructures().select([train], kernel)
    expected = reference.dense_gram(kernel, reference.structures_of(batch), _landmark_sets(landmarks))
    torch.testing.assert_close(kernel.rows(batch, landmarks), expected, rtol=1e-10, atol=1e-12)
    gram = reference.dense_gram(kernel, _landmark_sets(landmarks), _landmark_sets(landmarks))
    torch.testing.assert_close(kernel.gram(landmarks), gram, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("reduce", "mixing"), MIXINGS)
def test_singleton_columns(reduce, mixing):
    """Columns of singletons add up to the kernel with a set that holds them."""
    batch, train = reference.random_batch(2), reference.random_batch(3, n_structures=4)
    kernel = SetKernel(Gaussian(1.5), mixing, reduce, Transform.identity(4))
    landmarks = Uniform(7).select([train], kernel)
    rows = kernel.rows(batch, landmarks)
    parts = 2 if reduce == "mean" and 0 < mixing.alpha < 1 else 1
    assert rows.shape == (batch.n_structures, 7 * parts) == (batch.n_structures, kernel.n_columns(landmarks))
    sets = _landmark_sets(landmarks)
    expected = reference.dense_gram(kernel, reference.structures_of(batch), sets)
    torch.testing.assert_close(rows.reshape(-1, parts, 7).sum(1), expected, rtol=1e-10, atol=1e-12)
    assert torch.linalg.eigvalsh(kernel.gram(landmarks))[0] > -1e-12


@pytest.mark.parametrize("atom", KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize(("reduce", "mixing"), MIXINGS[1:3] + MIXINGS[5:6])
@pytest.mark.parametrize("whole", [False, True])
def test_derivative_rows_equal_finite_differences_of_energy_rows(atom, reduce, mixing, whole):
    train = reference.random_batch(4, n_structures=7)
    kernel = SetKernel(atom, mixing, reduce, fit_transform([train], "scale-per-species"))
    landmarks = (WholeStructures() if whole else Uniform(6)).select([train], kernel)
    batch, by_structure = reference.with_tangents(reference.random_batch(5), 6)
    rows = kernel.derivative_rows(batch, landmarks, torch.float64)
    expected, step = [], 1e-5
    for i, (z, h) in enumerate(reference.structures_of(batch)):
        for tangent in by_structure[i]:
            ends = [
                kernel.rows(_single(z, h + sign * step * tangent), landmarks)[0] / (2 * step) for sign in (1.0, -1.0)
            ]
            expected.append(ends[0] - ends[1])
    torch.testing.assert_close(rows, torch.stack(expected), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("atom", KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize(("reduce", "mixing"), MIXINGS)
def test_diagonal_and_its_derivatives(atom, reduce, mixing):
    """K(x,x), and its mixed second derivative along tangents against finite differences of the double sum."""
    batch, by_structure = reference.with_tangents(reference.random_batch(5, n_structures=4), 6)
    kernel = SetKernel(atom, mixing, reduce, fit_transform([batch], "scale-per-species"))
    structures = reference.structures_of(batch)
    expected = torch.tensor([reference.set_kernel_value(kernel, x, x) for x in structures], dtype=torch.float64)
    torch.testing.assert_close(kernel.diagonal(batch), expected, rtol=1e-10, atol=1e-12)
    found = kernel.derivative_diagonal(batch, chunk=2)
    differences, step = [], 1e-4
    for (z, h), tangents in zip(structures, by_structure, strict=True):
        for tangent in tangents:
            ends = {sign: (z, h + sign * step * tangent) for sign in (1, -1)}
            value = sum(a * b * reference.set_kernel_value(kernel, ends[a], ends[b]) for a in (1, -1) for b in (1, -1))
            differences.append(value / (4 * step**2))
    # Matern 3/2 has no third derivative at zero distance: its difference errs by the step itself
    tolerance = 1e-3 if atom.name == "matern32" else 1e-6
    torch.testing.assert_close(found, torch.tensor(differences, dtype=torch.float64), rtol=tolerance, atol=1e-6)
    chosen = torch.tensor([False, True, False, True])
    assert torch.equal(kernel.diagonal(batch, chosen), kernel.diagonal(batch) * chosen)
    partial = kernel.derivative_diagonal(batch, chosen)
    owner = torch.repeat_interleave(torch.arange(4), batch.directions.ptr.diff())
    assert torch.equal(partial, torch.where(chosen[owner], found, torch.zeros_like(found)))


def test_derivative_rows_in_single_precision():
    batch, _ = reference.with_tangents(reference.random_batch(5, float32=True), 6)
    kernel = SetKernel(Gaussian(2.0), SpeciesMixing(0.5), "sum", Transform.identity(4))
    landmarks = Uniform(6).select([batch], kernel)
    single, double = (kernel.derivative_rows(batch, landmarks, d) for d in (torch.float32, torch.float64))
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    species=st.lists(st.sampled_from([1, 3, 29]), min_size=24, max_size=24),
    alpha=st.sampled_from([0.0, 0.4, 1.0]),
    reduce=st.sampled_from(["sum", "mean"]),
    seed=st.integers(0, 1000),
)
def test_any_ragged_batch(sizes, species, alpha, reduce, seed):
    count = sum(sizes)
    features = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    batch = FeatureBatch.from_atoms(features, torch.tensor(species[:count]), bounds(torch.tensor(sizes)))
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(alpha), reduce, Transform.identity(3))
    landmarks = Uniform(count).select([batch], kernel)
    structures = reference.structures_of(batch)
    rows = kernel.rows(batch, landmarks)
    parts = rows.shape[1] // count
    expected = reference.dense_gram(kernel, structures, _landmark_sets(landmarks))
    torch.testing.assert_close(rows.reshape(-1, parts, count).sum(1), expected, rtol=1e-9, atol=1e-11)


def test_species_without_landmarks_and_structures_of_one_atom():
    """Absent species contribute nothing where species are apart, and all they should elsewhere."""
    batch = reference.random_batch(9, n_structures=8, most=2)
    other = FeatureBatch.from_atoms(torch.randn(3, 4).double(), torch.tensor([6, 6, 6]), torch.tensor([0, 1, 3]))
    for reduce, mixing in MIXINGS:
        kernel = SetKernel(Gaussian(1.0), mixing, reduce, Transform.identity(4))
        landmarks = WholeStructures().select([other], kernel)
        expected = reference.dense_gram(kernel, reference.structures_of(batch), _landmark_sets(landmarks))
        torch.testing.assert_close(kernel.rows(batch, landmarks), expected, rtol=1e-10, atol=1e-12)
        empty = FeatureBatch.from_atoms(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(1).long())
        assert kernel.rows(empty, landmarks).shape == (0, 2)


def test_results_do_not_depend_on_tiles_or_threads(monkeypatch):
    batch = reference.random_batch(7, n_structures=60, most=9)
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(0.3), "sum", Transform.identity(4))
    landmarks = Uniform(50).select([batch], kernel)
    threads = torch.get_num_threads()
    whole = kernel.rows(batch, landmarks)
    monkeypatch.setattr(sums, "TILE_COLUMNS", 16)
    monkeypatch.setattr(sums, "TILE_ROWS", 5)
    small = kernel.rows(batch, landmarks)
    torch.set_num_threads(2)
    again = kernel.rows(batch, landmarks)
    torch.set_num_threads(threads)
    torch.testing.assert_close(small, whole, rtol=1e-12, atol=1e-13)
    assert torch.equal(small, again)


def test_per_atom_values_and_gradients():
    """Contributions of atoms add up to rows times coefficients; gradients are their derivatives."""
    batch = reference.random_batch(8)
    for reduce, mixing in MIXINGS:
        kernel = SetKernel(Matern52(1.5), mixing, reduce, fit_transform([batch], "scale"))
        landmarks = Uniform(9).select([batch], kernel)
        coefficients = torch.randn(kernel.n_columns(landmarks), dtype=torch.float64)
        expanded = kernel.atom_coefficients(landmarks, coefficients)
        results = kernel.evaluate(batch.runs, batch.n_atoms, landmarks, expanded, gradient=True)
        total = torch.zeros(batch.n_structures, dtype=torch.float64)
        for run, (values, _) in zip(batch.runs, results, strict=True):
            owner = torch.repeat_interleave(torch.arange(batch.n_structures), run.ptr.diff())
            total.index_add_(0, owner, values)
        torch.testing.assert_close(total, kernel.rows(batch, landmarks) @ coefficients, rtol=1e-9, atol=1e-11)
        moved, by_structure = reference.with_tangents(batch, 3)
        slopes = kernel.derivative_rows(moved, landmarks, torch.float64) @ coefficients
        found = []
        for i in range(batch.n_structures):
            parts = [g[run.ptr[i] : run.ptr[i + 1]] for run, (_, g) in zip(batch.runs, results, strict=True)]
            found += [(torch.cat(parts) * tangent).sum() for tangent in by_structure[i]]
        torch.testing.assert_close(torch.stack(found), slopes, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0.0), "length_scale is 0.0"),
        (lambda: Gaussian(float("nan")), "length_scale"),
        (lambda: GaussianSum(()), "at least one"),
        (lambda: Linear(1.0, -1.0), "must not be negative"),
        (lambda: SpeciesMixing(1.5), "alpha is 1.5"),
        (lambda: SpeciesMixing(0.0, (1, 6), ((1.0, 0.5),)), "2 x 2"),
        (lambda: SpeciesMixing(0.0, (1, 6), ((1.0, 0.5), (0.4, 1.0))), "not symmetric"),
        (lambda: SpeciesMixing(0.0, (1, 6), ((1.0, 2.0), (2.0, 1.0))), "negative eigenvalue"),
        (lambda: atom_kernel("gausian"), "Do you mean 'gaussian'"),
        (lambda: atom_kernel("gaussian", width=1.0), "gaussian kernel"),
        (lambda: SetKernel(Gaussian(1.0), MIXINGS[3][1], "mean", Transform.identity(2)), "reduce='sum'"),
        (lambda: MIXINGS[3][1].table([26], [1]), "no row for species"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        make()


def _landmark_sets(landmarks):
    sets = []
    for i in range(landmarks.n_sets):
        chosen = landmarks.owner == i
        sets.append((landmarks.species[chosen].tolist(), landmarks.features[chosen].double()))
    return sets


def _single(z, h):
    return FeatureBatch.from_atoms(h, torch.tensor(z), torch.tensor([0, len(z)]))


@pytest.mark.parametrize("columns", [1, 40])
def test_sums_as_on_a_device_equal_those_on_cpus(monkeypatch, columns):
    """The GPU's way of summing, run here on the CPU: ragged owners, some without rows, many tiles."""
    from mekrr_scale.kernels import sums

    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(83, columns, generator=generator, dtype=torch.float64)
    owner = torch.randint(0, 23, (83,), generator=generator).sort().values
    for elements in (1, 200, 10**6):
        monkeypatch.setattr(sums, "DEVICE_ELEMENTS", elements)
        found = sums.segment_sums_on_device(owner, 25, columns, lambda a, b, c, d: matrix[a:b, c:d], "cpu")
        expected = torch.zeros(25, columns, dtype=torch.float64).index_add_(0, owner, matrix)
        torch.testing.assert_close(found, expected)
        squares = sums.segment_sums_on_device(owner, 25, columns, lambda a, b, c, d: matrix[a:b, c:d], "cpu", _squares)
        torch.testing.assert_close(squares, torch.zeros_like(expected).index_add_(0, owner, matrix.square()))
    assert bool((sums.segment_sums_on_device(owner[:0], 3, columns, lambda *_: matrix[:0], "cpu") == 0).all())


def _squares(t, bounds):
    return torch.stack([t[a:b].square().sum(0) for a, b in zip(bounds[:-1], bounds[1:], strict=True)])


def test_the_fused_kernel_in_tritons_interpreter():
    """CUDA builds of torch bring Triton; its interpreter runs the kernel without a GPU."""
    pytest.importorskip("triton")
    code = """
import torch
from mekrr_scale.kernels.fused import gaussian_sums
t = -3 * torch.rand(37, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
bounds = torch.tensor([0, 5, 5, 20, 37])
found = gaussian_sums(t, bounds)
expected = torch.stack([t[a:b].exp().sum(0) for a, b in zip(bounds[:-1], bounds[1:])])
torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
