"""Model files: what comes back, and what is noticed."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from mekrr_scale.errors import ModelError
from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import KernelPlan, fit


def test_model_file_round_trip(fitted, model_file, toy_structures):
    loaded = Model.load(model_file)
    a = Potential(fitted.model, dtype=torch.float64).predict(toy_structures[:4])
    b = Potential(loaded, dtype=torch.float64).predict(toy_structures[:4])
    assert torch.equal(a.energy, b.energy)
    assert torch.equal(a.forces, b.forces)
    assert loaded.validation == json.loads(json.dumps(dict(fitted.model.validation)))
    assert loaded.provenance["structures"] == 24


def test_matrix_mixing_survives_the_file(store, small_plan, tmp_path):
    from dataclasses import replace

    from mekrr_scale.kernels import SpeciesMixing

    mixing = SpeciesMixing(0.0, (1, 6, 8), ((1.0, 0.2, 0.1), (0.2, 1.0, 0.3), (0.1, 0.3, 1.0)))
    model = fit(store, replace(small_plan, kernel=KernelPlan(length_scales="2x", mixing=mixing))).model
    model.save(tmp_path / "m.mekrr")
    assert Model.load(tmp_path / "m.mekrr").kernel.mixing == mixing


def test_damaged_model_files_are_refused(model_file, tmp_path):
    """Flipped bits and truncations: an error or the very same model, header and all; never another one."""
    original = model_file.read_bytes()
    reference = Model.load(model_file)
    generator = np.random.default_rng(0)
    path = tmp_path / "damaged.mekrr"
    detected = 0
    for case in range(160):
        data = bytearray(original)
        if case % 4 == 0:
            data = data[: int(generator.integers(len(data)))]
        else:  # most of them in the header
            place = int(generator.integers(len(data))) if case % 4 == 1 else int(generator.integers(4000))
            data[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(data))
        try:
            found = Model.load(path)
        except ModelError:
            detected += 1
            continue
        assert_same_model(found, reference)
    assert detected > 150


def assert_same_model(found, expected):
    for name in ("backbone", "spec", "validation", "provenance", "prior"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.kernel.atom == expected.kernel.atom
    assert found.kernel.mixing == expected.kernel.mixing
    assert found.kernel.reduce == expected.kernel.reduce
    assert found.posterior.header() == expected.posterior.header()
    assert found.baseline.species == expected.baseline.species
    assert (found.baseline.prior, found.baseline.fitted) == (expected.baseline.prior, expected.baseline.fitted)
    for get in (
        lambda m: m.coefficients, lambda m: m.landmarks.features, lambda m: m.landmarks.species,
        lambda m: m.landmarks.owner, lambda m: m.baseline.energies, lambda m: m.kernel.transform.mean,
        lambda m: m.kernel.transform.scale, lambda m: m.posterior.factor,
    ):  # fmt: skip
        assert torch.equal(get(found), get(expected))


def edited(path, target, change):
    """A model file with another header, with or without a seal that fits."""
    with safetensors.safe_open(path, "pt") as archive:
        document = json.loads(archive.metadata()["mekrr_scale"])
    change(document)
    safetensors.torch.save_file(safetensors.torch.load_file(path), target, {"mekrr_scale": json.dumps(document)})


def test_one_changed_digit_is_seen(model_file, tmp_path):
    """Of the length scale, as of every number in the header; neither the seal nor the schema can go."""
    path = tmp_path / "edited.mekrr"

    def longer(document):
        document["kernel"]["atom"]["length_scale"] *= 1.00001

    for change in (
        longer,
        lambda document: document["kernel"]["mixing"].update(alpha=0.123),
        lambda document: document["posterior"].update(ridge=1.0),
        lambda document: document.pop("seal"),
        lambda document: document.update(schema="1.2"),
        lambda document: document.update(more=1),
    ):
        edited(model_file, path, change)
        with pytest.raises(ModelError, match="header of .* is damaged"):
            Model.load(path)


def test_models_of_older_versions_are_read_with_a_word(model_file, tmp_path, caplog):
    path = tmp_path / "old.mekrr"

    def older(document):
        document["schema"] = "1.2"
        del document["seal"]

    edited(model_file, path, older)
    assert_same_model(Model.load(path), Model.load(model_file))
    assert "is of 0.1.0" in caplog.text
