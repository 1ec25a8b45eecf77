"""Atom and set kernels and their derivative rows against slow twins and finite differences."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr_scale.arrays import FeatureBatch, alone, bounds
from mekrr_scale.errors import ConfigError, ModelError
from mekrr_scale.kernels import (
    KERNEL_NAMES,
    KERNELS,
    AtomKernel,
    Gaussian,
    GaussianSum,
    Head,
    Linear,
    Matern52,
    SetKernel,
    SpeciesMixing,
    Transform,
    atom_kernel,
    check_kernel,
    fit_transform,
    prepared,
    sums,
    variances,
)
from mekrr_scale.landmarks import Uniform, WholeStructures
from tests import reference

PARAMETERS = {  # of kernels that more than a length scale is given
    "matern32": {"length_scale": 2.1},
    "matern52": {"length_scale": 1.3},
    "gaussian-sum": {"length_scales": (0.8, 3.0)},
    "linear": {"length_scale": 1.5, "offset": 0.4},
    "polynomial": {"degree": 3, "length_scale": 1.4, "offset": 0.7},
}
ATOMS = [atom_kernel(name, **PARAMETERS.get(name, {"length_scale": 1.7})) for name in KERNEL_NAMES]
MIXINGS = [
    ("sum", SpeciesMixing(0.0)),
    ("sum", SpeciesMixing(0.4)),
    ("sum", SpeciesMixing(1.0)),
    ("sum", SpeciesMixing(0.0, (1, 6, 8), ((1.0, 0.2, 0.0), (0.2, 0.9, -0.3), (0.0, -0.3, 1.1)))),
    ("mean", SpeciesMixing(0.0)),
    ("mean", SpeciesMixing(0.4)),
    ("mean", SpeciesMixing(1.0)),
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kernel", ATOMS, ids=lambda k: k.name)
def test_atom_kernels(kernel):
    check_kernel(kernel, partial(reference.atom_kernel_value, kernel))


@dataclass(frozen=True)
class Wrong(Gaussian.__base__):
    """A Gaussian with a fault in one of its functions."""

    fault: str = "profile"
    name: ClassVar[str] = "wrong"

    def profile(self, t):
        return (1.1 if self.fault == "profile" else 1.0) * t.exp() - 0.9 * (self.fault == "indefinite")

    def slope(self, t):
        return t.exp_() if self.fault == "overwrites" else (1.1 if self.fault == "slope" else 1.0) * t.exp()

    def curvature(self, t):
        return t.exp() / (t != 0) if self.fault == "zero" else (1.1 if self.fault == "curvature" else 1.0) * t.exp()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("profile", "formula"),
        ("slope", "slope against"),
        ("curvature", "curvature against"),
        ("overwrites", "slope against|overwrite"),
        ("zero", "t = 0"),
        ("none", "no kernel 'wrong'"),
    ],
)
def test_faults_of_atom_kernels_are_found(fault, message):
    formula = partial(reference.atom_kernel_value, Gaussian(1.7))
    with pytest.raises(ConfigError, match=message):
        check_kernel(Wrong(1.7, fault), formula)


@pytest.mark.parametrize(("beside", "apart"), [(0.0, True), (-0.2, False), (0.2, False)])
def test_species_never_meet_where_all_between_them_is_zero(beside, apart):
    assert SpeciesMixing(matrix=((1.0, beside), (beside, 2.0)), species=(1, 8)).separate is apart


def test_one_negative_eigenvalue_is_found():
    """A constant taken off a positive matrix makes one eigenvalue negative, and no more."""
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert int((torch.linalg.eigvalsh(Wrong(1.7, "indefinite").gram(x, x)) < 0).sum()) == 1
    with pytest.raises(ConfigError, match="positive semi-definite"):
        check_kernel(Wrong(1.7, "indefinite"))


@pytest.mark.parametrize("standardize", ["none", "scale-per-species"])
@pytest.mark.parametrize(("reduce", "mixing"), MIXINGS)
@pytest.mark.parametrize("atom", [ATOMS[0], ATOMS[1], ATOMS[4]], ids=lambda k: k.name)
def test_rows_equal_double_loops(atom, reduce, mixing, standardize):
    batch, train = reference.random_batch(0), reference.random_batch(1, n_structures=8)
    kernel = SetKernel(atom, mixing, reduce, fit_transform([train], standardize))
    landmarks = WholeStructures().select([train], kernel)
    expected = reference.dense_gram(kernel, reference.structures_of(batch), reference.landmark_sets(landmarks))
    torch.testing.assert_close(kernel.rows(batch, landmarks), expected, rtol=1e-10, atol=1e-12)
    gram = reference.dense_gram(kernel, reference.landmark_sets(landmarks), reference.landmark_sets(landmarks))
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
    sets = reference.landmark_sets(landmarks)
    expected = reference.dense_gram(kernel, reference.structures_of(batch), sets)
    torch.testing.assert_close(rows.reshape(-1, parts, 7).sum(1), expected, rtol=1e-10, atol=1e-12)
    assert torch.linalg.eigvalsh(kernel.gram(landmarks))[0] > -1e-12


@pytest.mark.parametrize("atom", ATOMS, ids=lambda k: k.name)
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


@pytest.mark.parametrize("atom", ATOMS, ids=lambda k: k.name)
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


@settings(max_examples=40)
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
    expected = reference.dense_gram(kernel, structures, reference.landmark_sets(landmarks))
    torch.testing.assert_close(rows.reshape(-1, parts, count).sum(1), expected, rtol=1e-9, atol=1e-11)


def test_species_without_landmarks_and_structures_of_one_atom():
    """Absent species contribute nothing where species are apart, and all they should elsewhere."""
    batch = reference.random_batch(9, n_structures=8, most=2)
    other = FeatureBatch.from_atoms(normal(3, 4), torch.tensor([6, 6, 6]), torch.tensor([0, 1, 3]))
    for reduce, mixing in MIXINGS:
        kernel = SetKernel(Gaussian(1.0), mixing, reduce, Transform.identity(4))
        landmarks = WholeStructures().select([other], kernel)
        expected = reference.dense_gram(kernel, reference.structures_of(batch), reference.landmark_sets(landmarks))
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


@pytest.mark.parametrize("atom", [ATOMS[0], ATOMS[5]], ids=lambda k: k.name)
def test_derivative_rows_do_not_depend_on_tiles_threads_or_what_is_kept(atom, monkeypatch):
    """Several tiles of columns and rows of one structure; slopes that are kept, and that are made anew every time."""
    batch, _ = reference.with_tangents(reference.random_batch(8, n_structures=20, most=9), 3, most=7)
    kernel = SetKernel(atom, SpeciesMixing(0.3), "sum", Transform.identity(4))
    landmarks = Uniform(50).select([batch], kernel)
    whole = kernel.derivative_rows(batch, landmarks, torch.float64)
    monkeypatch.setattr(sums, "TILE_COLUMNS", 16)
    monkeypatch.setattr(sums, "TILE_ROWS", 5)
    small = kernel.derivative_rows(batch, landmarks, torch.float64)
    torch.testing.assert_close(small, whole, rtol=1e-12, atol=1e-12 * float(whole.abs().max()))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    again = kernel.derivative_rows(batch, landmarks, torch.float64)
    torch.set_num_threads(threads)
    assert torch.equal(small, again)
    monkeypatch.setattr(prepared, "KEPT_ELEMENTS", 0)
    assert torch.equal(small, kernel.derivative_rows(batch, landmarks, torch.float64))


def test_atom_kernels_by_name():
    """Every name of the table is the name of its kernel, and kernels are their own plain values."""
    for name, atom in zip(KERNELS, ATOMS, strict=True):
        assert isinstance(atom, AtomKernel)
        assert (atom.name, type(atom).__name__) == (name, KERNELS[name])


@pytest.mark.parametrize(("reduce", "mixing"), MIXINGS)
def test_scales_of_labels_and_energies(reduce, mixing):
    """1 for ``sum``, 1/n and n for ``mean``; rows that are linear in alpha, and those that are not."""
    batch = reference.random_batch(10)
    kernel = SetKernel(Gaussian(1.5), mixing, reduce, Transform.identity(4))
    labels, energies = kernel.label_scale(batch.n_atoms), kernel.energy_scale(batch.n_atoms)
    size = batch.n_atoms.double()
    assert torch.equal(labels, 1.0 / size if reduce == "mean" else torch.ones_like(size))
    assert torch.equal(energies, size if reduce == "mean" else torch.ones_like(size))
    assert kernel.linear_in_alpha == (reduce == "sum" and not mixing.matrix)
    if kernel.linear_in_alpha:
        landmarks = Uniform(7).select([batch], kernel)
        ends = [kernel.with_alpha(alpha).rows(batch, landmarks) for alpha in (0.0, 1.0)]
        between = (1 - mixing.alpha) * ends[0] + mixing.alpha * ends[1]
        torch.testing.assert_close(kernel.rows(batch, landmarks), between, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("reduce", "mixing"), MIXINGS)
def test_the_head_is_one_path(reduce, mixing):
    """Energies, atoms' parts, their gradients and similarities, against rows and double loops."""
    batch, train = reference.random_batch(8), reference.random_batch(9)
    kernel = SetKernel(Gaussian(1.5), mixing, reduce, fit_transform([train], "scale-per-species"))
    landmarks = Uniform(9).select([train], kernel)
    coefficients = normal(kernel.n_columns(landmarks))
    head = Head(kernel, landmarks, coefficients)
    energies = head.energies(batch)
    size = batch.n_atoms.double() if reduce == "mean" else 1.0
    assert torch.equal(energies, (kernel.rows(batch, landmarks) @ coefficients) * size)
    structures = reference.structures_of(batch)
    features, numbers = torch.cat([h for _, h in structures]), torch.tensor([a for z, _ in structures for a in z])
    owner = torch.repeat_interleave(torch.arange(len(structures)), batch.n_atoms)
    values, slopes = head.atoms(features, numbers, owner, len(structures), gradient=True)
    totals = torch.zeros(len(structures), dtype=torch.float64).index_add(0, owner, values)
    torch.testing.assert_close(totals, energies, rtol=1e-9, atol=1e-11)
    assert head.atoms(features, numbers, owner, len(structures))[1] is None
    move, step = normal(*features.shape, seed=1), 1e-5
    ends = [head.atoms(features + s * step * move, numbers, owner, len(structures))[0].sum() for s in (1, -1)]
    torch.testing.assert_close((slopes * move).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)
    arranged = FeatureBatch.unlabelled(features, numbers, batch.n_atoms)
    sets = reference.landmark_sets(landmarks)
    for (a, z), row in zip(enumerate(numbers.tolist()), head.similarities(arranged), strict=True):
        h = reference.transformed(kernel, [z], features[a : a + 1])[0]
        others = [(y[0], reference.transformed(kernel, y, g)[0]) for y, g in sets]
        expected = [
            float(mixing.table([z], [y])[0, 0]) * reference.atom_kernel_value(kernel.atom, h, g) for y, g in others
        ]
        torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_a_head_refuses_coefficients_of_others():
    batch = reference.random_batch(8)
    kernel = SetKernel(Gaussian(1.5), SpeciesMixing(0.4), "mean", Transform.identity(4))
    with pytest.raises(ModelError, match="9 coefficients for 18 columns"):
        Head(kernel, Uniform(9).select([batch], kernel), torch.zeros(9, dtype=torch.float64))


def test_per_atom_values_and_gradients():
    """Contributions of atoms add up to rows times coefficients; gradients are their derivatives."""
    batch = reference.random_batch(8)
    for reduce, mixing in MIXINGS:
        kernel = SetKernel(Matern52(1.5), mixing, reduce, fit_transform([batch], "scale"))
        landmarks = Uniform(9).select([batch], kernel)
        coefficients = normal(kernel.n_columns(landmarks))
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


def _single(z, h):
    return FeatureBatch.from_atoms(h, torch.tensor(z), torch.tensor([0, len(z)]))


@pytest.mark.parametrize("atom", ATOMS, ids=lambda k: k.name)
@pytest.mark.parametrize(("reduce", "mixing"), MIXINGS)
def test_large_structures_are_taken_in_tiles_and_single_atoms_by_formula(atom, reduce, mixing, monkeypatch):
    """K(x,x) does not depend on how many pairs are held at once; of one atom it is the double sum's one term."""
    batch, _ = reference.with_tangents(reference.random_batch(5, n_structures=6, most=7), 6)
    kernel = SetKernel(atom, mixing, reduce, fit_transform([batch], "scale-per-species"))
    whole, moved = kernel.diagonal(batch), kernel.derivative_diagonal(batch)
    monkeypatch.setattr(variances, "PAIRS", 13)  # fewer than two rows of the largest
    torch.testing.assert_close(kernel.diagonal(batch), whole, rtol=1e-12, atol=1e-13)
    # near zero distance the curvature of Matern 3/2 grows without bound, and the rounding of the distance with it
    tolerance = 1e-6 if atom.name == "matern32" else 1e-10
    torch.testing.assert_close(kernel.derivative_diagonal(batch), moved, rtol=tolerance, atol=1e-2 * tolerance)
    _, features = zip(*reference.structures_of(batch), strict=True)
    lone = alone(torch.cat(features), torch.tensor([z for zs, _ in reference.structures_of(batch) for z in zs]))
    expected = [reference.set_kernel_value(kernel, x, x) for x in reference.structures_of(lone)]
    torch.testing.assert_close(kernel.diagonal(lone), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    some = torch.arange(lone.n_structures) % 3 == 0
    assert torch.equal(kernel.diagonal(lone, some), kernel.diagonal(lone) * some)
