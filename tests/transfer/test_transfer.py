"""Training and fine-tuning: the loss, what learns and what does not, resumption to the bit, refusals."""

import json
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import (
    BackboneEnergies,
    BackboneSpec,
    Rescaled,
    Scaling,
    check_backbone,
    load_backbone,
    new_backbone,
    save_backbone,
)
from mekrr_scale.distributed import Checkpoint, StopSignals
from mekrr_scale.errors import BackboneError, ConfigError, StoppedError, StructureError
from mekrr_scale.progress import Silent
from mekrr_scale.structures import check_energies, check_forces
from mekrr_scale.transfer import (
    BlockPlan,
    Entry,
    TrainPlan,
    adapted,
    errors_on,
    finetune,
    pretrain,
    randomize,
    read_examples,
    split,
    train,
)
from mekrr_scale.transfer.adapt import own_energies
from mekrr_scale.transfer.blocks import reset_blocks
from mekrr_scale.transfer.examples import batch_of
from mekrr_scale.transfer.training import batch_loss
from tests import reference

SIZES = {"hidden_channels": 16, "num_filters": 16, "num_interactions": 2, "num_gaussians": 12, "cutoff": 4.0}
BLOCKS = ["embedding", "interaction1", "interaction2", "readout"]


def small():
    torch.manual_seed(3)
    return new_backbone(BackboneSpec("schnet"), SIZES)


@pytest.fixture(scope="module")
def examples(toy_structures):
    return read_examples(toy_structures)


@pytest.fixture(scope="module")
def source(examples, tmp_path_factory):
    """A SchNet trained for a moment, as a file."""
    path = tmp_path_factory.mktemp("weights") / "source.pt"
    save_backbone(pretrain(small(), examples[:16], examples[16:], TrainPlan(steps=30)).backbone, path)
    return path


def weights_of(backbone):
    return {name: weight.clone() for name, weight in backbone.module.named_parameters()}


@pytest.mark.parametrize("length", [0.9, 1.2])
def test_scaled_geometries_conform(length):
    check_backbone(Rescaled(small(), Scaling(length, 2.5, {8: -3.0, 14: 1.5})))


def test_scaled_energies_and_forces():
    """E(x) = sum_a [s e_a(g x) + r(z_a)], and forces are its derivative."""
    inner = small().to(dtype=torch.float64)
    backbone = Rescaled(inner, Scaling(0.9, 2.5, {8: -3.0, 14: 1.5}))
    atoms = bulk("Si", cubic=True)
    atoms.numbers[::2] = 8
    atoms.rattle(0.1, seed=1)
    shrunk = atoms.copy()
    shrunk.set_cell(0.9 * atoms.cell, scale_atoms=True)
    graph, other = backbone.graph(atoms), inner.graph(shrunk)
    found = backbone.forward(graph, graph.positions)
    expected = inner.forward(other, other.positions)
    torch.testing.assert_close(found.features, expected.features)
    assert float(found.energy(graph)) == pytest.approx(2.5 * float(expected.energy(other)) - 4 * 3.0 + 4 * 1.5)
    positions = graph.positions.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(backbone.forward(graph, positions).energy(graph).sum(), positions)
    step = 1e-5 * torch.eye(24, dtype=torch.float64)[5].reshape(8, 3)
    with torch.no_grad():
        ends = [float(backbone.forward(graph, graph.positions + s * step).energy(graph)) for s in (1, -1)]
    assert float(slope.flatten()[5]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", ["chgnet", "sevennet", "schnet", "dimenet++"])
def test_saved_backbones(name, tmp_path):
    """Every backbone becomes a file, and from it a backbone again: with new weights, scaling and references."""
    pytest.importorskip({"chgnet": "chgnet", "sevennet": "sevenn"}.get(name, "torch"))
    backbone = randomize(new_backbone(BackboneSpec(name)), seed=5)
    kept = Rescaled(backbone, Scaling(0.95, 1.5, {14: -2.0}, (14, 32)))
    save_backbone(kept, tmp_path / "b.pt", {"steps": 3})
    loaded = load_backbone(name, checkpoint=str(tmp_path / "b.pt"))
    assert loaded.identity().weight_hash == kept.identity().weight_hash
    assert loaded.identity().options == kept.identity().options
    assert loaded.species == {14, 32}
    graph = loaded.graph(bulk("Si"))
    given, found = (b.forward(graph, graph.positions) for b in (kept, loaded))
    assert torch.equal(given.features, found.features)
    assert torch.equal(given.energies, found.energies)
    other = "schnet" if name != "schnet" else "chgnet"
    with pytest.raises(BackboneError, match="checkpoint of"):
        load_backbone(other, checkpoint=str(tmp_path / "b.pt"))


def test_loss(examples):
    """Against loops, with forces and stress by finite differences of the energy."""
    plan = TrainPlan(energy_weight=3.0, force_weight=0.7, stress_weight=11.0)
    backbone = small().to(dtype=torch.float64)
    chosen = [examples[2], examples[0], examples[6]]
    loss, _ = batch_loss(backbone, batch_of(chosen, backbone), plan, create_graph=False)
    assert float(loss) == pytest.approx(reference.training_loss(backbone, chosen, plan), rel=1e-6)


def test_training_learns(examples):
    # the cells' stress labels are random numbers: nothing can learn them
    plan = TrainPlan(steps=150, learning_rate=5e-3, stress_weight=0.0)
    report = pretrain(small(), examples[:16], examples[16:], plan)
    assert report.best.errors.forces < 0.3 * report.history[0].errors.forces
    assert report.best is min(report.history, key=lambda record: record.validation)
    found = errors_on(BackboneEnergies(report.backbone), examples[16:])
    assert found.force_rmse == pytest.approx(1e3 * report.best.errors.forces, rel=1e-5)
    assert not any(weight.requires_grad for weight in report.backbone.module.parameters())
    constant = pretrain(
        small(), examples[:16], examples[16:],
        TrainPlan(steps=60, schedule="constant", huber=0.1, average=0.0, weight_decay=1e-3, cycles=2),
    )  # fmt: skip
    assert constant.best.errors.forces < constant.history[0].errors.forces


def test_second_derivatives_by_positions_are_not_computed(examples, monkeypatch):
    """A step goes back to the positions once, for the forces; the loss goes back to the weights alone."""
    network = small()
    passes = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(context, vectors):
            return vectors.clone()

        @staticmethod
        def backward(context, slopes):
            passes.append(1)
            return slopes.clone()

    inside = network.on_edges
    monkeypatch.setattr(network, "on_edges", lambda graph, vectors, *rest: inside(graph, Watched.apply(vectors), *rest))
    train(network, examples[:4], examples[4:6], TrainPlan(steps=3, batch=2, validate_every=3))
    assert len(passes) == 3 + 2  # and one for each validation


def test_frozen_blocks_stay(source, examples):
    before = weights_of(load_backbone("schnet", checkpoint=str(source)))
    plan = TrainPlan(steps=5, blocks=BlockPlan(freeze_up_to="interaction1"))
    report = finetune(load_backbone("schnet", checkpoint=str(source)), examples[:8], examples[8:12], plan)
    after = weights_of(report.backbone)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(("interactions.1.", "lin")) for name in moved)
    assert report.rates["embedding"] == report.rates["interaction1"] == 0.0


def test_reset_blocks(source):
    backbone = load_backbone("schnet", checkpoint=str(source))
    before = weights_of(backbone)
    reset_blocks(backbone, ["readout"], seed=1)
    moved = {name for name, weight in weights_of(backbone).items() if not torch.equal(before[name], weight)}
    assert moved
    assert all(name.startswith("lin") for name in moved)
    again = load_backbone("schnet", checkpoint=str(source))
    reset_blocks(again, ["readout"], seed=1)
    assert again.identity() == backbone.identity()


def test_references_are_fitted_to_the_residual(source, examples):
    """Least squares on the composition of what the source leaves."""
    backbone = load_backbone("schnet", checkpoint=str(source))
    moved = [replace(e, labels=replace(e.labels, energy=e.labels.energy + 7.0 * len(e.atoms))) for e in examples]
    level, ready = adapted(backbone, examples), adapted(backbone, moved)
    for z in (1, 6, 8):
        assert ready.scaling.references[z] == pytest.approx(level.scaling.references[z] + 7.0, abs=1e-9)
    counts = np.array([[(e.atoms.numbers == z).sum() for z in (1, 6, 8)] for e in examples])
    inner = replace(backbone.scaling, references={})
    own = own_energies(Rescaled(backbone.inner, inner), examples).numpy()
    target = np.array([e.labels.energy for e in moved]) - own
    expected = np.linalg.lstsq(counts, target, rcond=None)[0]
    np.testing.assert_allclose([ready.scaling.references[z] for z in (1, 6, 8)], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "block"), [("chgnet", "conv3"), ("sevennet", "interaction4"), ("dimenet++", "embedding")]
)
def test_every_backbone_is_fine_tuned(name, block, examples):
    """Forces are part of the loss; what is behind the frozen blocks moves, and nothing else."""
    pytest.importorskip({"chgnet": "chgnet", "sevennet": "sevenn"}.get(name, "torch"))
    torch.manual_seed(0)
    backbone = new_backbone(BackboneSpec(name))
    before = weights_of(backbone)
    plan = TrainPlan(steps=2, batch=2, stress_weight=0.0, blocks=BlockPlan(freeze_up_to=block))
    report = finetune(backbone, examples[:4], examples[4:6], plan)
    frozen = list(backbone.blocks())[: list(backbone.blocks()).index(block) + 1]
    learning = [name for key, named in backbone.parameters().items() if key not in frozen for name in named]
    moved = {name for name, weight in weights_of(report.backbone).items() if not torch.equal(before[name], weight)}
    assert moved
    assert moved <= set(learning)
    assert np.isfinite(report.best.errors.forces)


@pytest.mark.parametrize("name", ["chgnet", "sevennet"])
def test_references_of_the_architecture_do_no_harm(name, examples):
    """CHGNet and SevenNet bring energies of elements along; a new network of theirs begins at the labels' level."""
    pytest.importorskip({"chgnet": "chgnet", "sevennet": "sevenn"}[name])
    report = pretrain(new_backbone(BackboneSpec(name)), examples[:6], examples[6:8], TrainPlan(steps=0))
    assert report.history[0].errors.energy < 1.0


class _StopAt(Silent):
    """Asks to stop after so many steps, as a signal would."""

    def __init__(self, stop, steps):
        self.stop, self.left = stop, steps

    def advance(self, steps=1):
        self.left -= steps
        self.stop.asked |= self.left == 0


def test_resumed_training_is_the_same_to_the_bit(examples, tmp_path):
    plan = TrainPlan(steps=12, batch=5, validate_every=5, blocks=BlockPlan(rates={"embedding": 1e-4}))
    whole = pretrain(small(), examples[:16], examples[16:], plan)
    begun = weights_of(small())
    assert all(not torch.equal(weight, begun[name]) for name, weight in weights_of(whole.backbone).items())
    for stopped_at in (3, 4):
        stop = StopSignals()
        kept = Checkpoint(tmp_path / "state", {}, stop=stop)
        with pytest.raises(StoppedError):
            pretrain(small(), examples[:16], examples[16:], plan, _StopAt(stop, stopped_at), kept)
    resumed = pretrain(small(), examples[:16], examples[16:], plan, checkpoint=Checkpoint(tmp_path / "state", {}))
    assert resumed.steps == 12
    for name, weight in weights_of(whole.backbone).items():
        assert torch.equal(weight, weights_of(resumed.backbone)[name]), name
    assert [repr(record) for record in resumed.history] == [repr(record) for record in whole.history]
    other = replace(plan, learning_rate=1e-4)
    with pytest.raises(ConfigError, match="learning_rate"):
        pretrain(small(), examples[:16], examples[16:], other, checkpoint=Checkpoint(tmp_path / "state", {}))


def test_early_stop(examples):
    plan = TrainPlan(steps=200, validate_every=1, patience=2, learning_rate=0.5, schedule="constant", warmup=0.0)
    report = train(small(), examples[:4], examples[8:12], plan)
    assert report.steps < 200
    assert report.best.step <= report.steps - 2


def test_energies_alone(examples):
    """Without forces: no derivative is taken, references and scale come from the energies."""
    bare = [replace(e, labels=replace(e.labels, forces=None, stress=None)) for e in examples]
    report = pretrain(small(), bare[:16], bare[16:], TrainPlan(steps=40))
    assert np.isnan(report.best.errors.forces)
    assert report.best.errors.energy < report.history[0].errors.energy
    with pytest.raises(ConfigError, match="no label that the weights count"):
        pretrain(small(), bare[:16], bare[16:], TrainPlan(steps=1, energy_weight=0.0))


def test_refusals(source, examples, toy_structures):
    with pytest.raises(ConfigError, match="validation set is empty"):
        pretrain(small(), examples, [])
    with pytest.raises(ConfigError, match="leaves 0 for validation"):
        split(examples, 0.001)
    with pytest.raises(StructureError, match="validation set is empty"):
        read_examples([], what="validation")
    alloy = [atoms.copy() for atoms in toy_structures[:8]]
    for atoms, labelled in zip(alloy, toy_structures, strict=False):
        atoms.calc = SinglePointCalculator(atoms, **labelled.calc.results)
        atoms.numbers[atoms.numbers == 8] = 16
    with pytest.raises(ConfigError, match=r"16 \(S\).*--species-map"):
        finetune(load_backbone("schnet", checkpoint=str(source)), read_examples(alloy), examples)
    with pytest.raises(ConfigError, match="knows no Ge"):
        adapted(load_backbone("schnet", checkpoint=str(source)), examples, Entry(species={32: 16}))
    mapped = Entry(species={8: 16})
    ready = adapted(load_backbone("schnet", checkpoint=str(source)), read_examples(alloy), mapped)
    assert ready.species == {1, 6, 8, 16}
    for changes in ({"steps": -1}, {"batch": 0}, {"learning_rate": 0.0}, {"huber": 0.0}, {"cycles": 0}):
        with pytest.raises(ConfigError, match="TrainPlan.* Input should be greater than"):
            TrainPlan(**changes)
    with pytest.raises(ConfigError, match="length scale"):
        Entry(length_scale=0.0)


def test_labels_in_other_units():
    generator = torch.Generator().manual_seed(0)
    forces = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
    check_forces(forces + noise, 1.3 * forces, "it")
    with pytest.raises(ConfigError, match=r"labels are in kcal/mol/angstrom .--units kcal/mol"):
        check_forces(23.06 * (forces + noise), forces, "it")
    with pytest.raises(ConfigError, match="prediction is in Hartree"):
        check_forces(forces + noise, forces / 27.2, "it")
    counts = torch.randint(1, 9, (30, 2), generator=generator).double()
    bare = torch.randn(30, generator=generator, dtype=torch.float64)
    labels = bare + counts @ torch.tensor([-100.0, -2000.0], dtype=torch.float64)
    own = 0.9 * bare + counts @ torch.tensor([-90.0, -2010.0], dtype=torch.float64)
    assert check_energies(labels, own, counts, "it") is None
    with pytest.raises(ConfigError, match="Hartree"):
        check_energies(labels, own / 27.2, counts, "it")
    with pytest.raises(ConfigError, match="kcal/mol"):
        check_energies(labels, own * 23.06, counts, "it")
    other = 3.0 * torch.randn(30, generator=generator, dtype=torch.float64)
    assert "explains nothing" in check_energies(labels, other, counts, "it")
    with pytest.raises(ConfigError, match="other units"):
        check_energies(labels, 100 * other, counts, "it")


def test_commands(run, toy_file, tmp_path):
    """From scratch, fine-tuned, and into a fit: three commands."""
    small_network = ("--sizes", "hidden_channels=16,num_filters=16,num_interactions=2,num_gaussians=12,cutoff=4")
    code, out, err = run(
        "pretrain", toy_file, "-o", "a.pt", *small_network, "--steps", 20, "--plot", "a.png", "--json", "a.json"
    )
    assert code == 0, err
    assert "extract STRUCTURES" in out
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert json.loads((tmp_path / "a.json").read_text())["errors"]["forces"] > 0
    assert not (tmp_path / "a.pt.state").exists()
    code, out, err = run(
        "finetune", toy_file, "-o", "b.pt", "--backbone", "schnet", "--checkpoint", "a.pt", "--steps", 10, "--lr-map",
        "embedding=0,interactions=1e-5,readout=3e-4", "--valid", toy_file,
    )  # fmt: skip
    assert code == 0, err
    assert "embedding frozen" in out
    assert "are in the validation set too" in err
    store = ("extract", toy_file, "-o", "f", "--backbone", "schnet", "--checkpoint", "b.pt", "--derivatives", 3)
    assert run(*store)[0] == 0
    assert run("fit", "--store", "f", "-o", "m.mekrr", "--landmarks", 30, "--validate", 3)[0] == 0
    assert run("evaluate", "m.mekrr", toy_file)[0] == 0
    code, out, _ = run("backbones", "--blocks", "schnet", "--checkpoint", "b.pt")
    assert code == 0
    assert all(block in out for block in BLOCKS)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("finetune", "FILE", "-o", "x.pt", "--backbone", "chgnet", "--train-blocks", "conv9"),
            2,
            "no block 'conv9'. Do you mean 'conv",
        ),
        (("finetune", "FILE", "-o", "x.pt", "--backbone", "chgnet", "--checkpoint", "SOURCE"), 5, "not of chgnet"),
        (("finetune", "FILE", "-o", "x.pt", "--backbone", "schnet"), 5, "needs --checkpoint"),
        (("finetune", "FILE", "-o", "x.pt", "--lr-map", "readout"), 2, "write name=number"),
        (("finetune", "FILE", "-o", "x.pt", "--species-map", "Si-Ge"), 2, "write source:target"),
        (("finetune", "FILE", "-o", "x.pt", "--valid-fraction", "0.001"), 2, "for validation"),
        (("pretrain", "FILE", "-o", "x.pt", "--sizes", "hiden_channels=3"), 5, "Do you mean 'hidden_channels'"),
        (("pretrain", "FILE", "-o", "x.pt", "--backbone", "chgnet", "--sizes", "cutoff=3"), 5, "sizes of its weights"),
        (("pretrain", "FILE", "-o", "nowhere/x.pt"), 2, "nowhere does not exist"),
        (("pretrain", "FILE", "-o", "x.pt", "--units", "kcal"), 3, "Do you mean"),
        (("backbones", "--blocks", "schnett"), 5, "Do you mean 'schnet'"),
    ],
)
def test_refused_commands(run, toy_file, source, arguments, code, message):
    given = [{"FILE": toy_file, "SOURCE": source}.get(argument, argument) for argument in arguments]
    found, _, err = run(*given)
    assert found == code, err
    assert message in err


def test_labels_in_kcal_are_refused_by_finetune(run, toy_structures, source, tmp_path):
    """The factor to the source's own forces tells."""
    frames = []
    for atoms in toy_structures:
        frame = atoms.copy()
        frame.calc = SinglePointCalculator(
            frame, energy=23.06 * atoms.calc.results["energy"], forces=23.06 * atoms.calc.results["forces"]
        )
        frames.append(frame)
    ase.io.write(tmp_path / "kcal.xyz", frames)
    examples = read_examples(toy_structures)
    well = tmp_path / "well.pt"
    plan = TrainPlan(steps=150, learning_rate=5e-3)
    save_backbone(pretrain(small(), examples, examples, plan).backbone, well)
    finetuning = ("finetune", "kcal.xyz", "-o", "x.pt", "--backbone", "schnet", "--checkpoint", well)
    code, _, err = run(*finetuning)
    assert code == 2
    assert "--units kcal/mol" in err
    assert run(*finetuning, "--units", "kcal/mol", "--steps", 2)[0] == 0
