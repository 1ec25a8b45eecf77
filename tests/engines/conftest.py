"""Models that engines are given."""

import pytest

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, extract, fit
from mekrr_scale.solvers import Direct
from tests.backbones.networks import small_sevennet


@pytest.fixture(scope="session")
def models(model_file, toy_structures, tmp_path_factory):
    """The toy model, and two on one small SevenNet: without and with its own energies."""
    folder = tmp_path_factory.mktemp("sevennet")
    spec = BackboneSpec("sevennet", "gate1", checkpoint=small_sevennet(folder / "net.pt"))
    frames = [atoms for atoms in toy_structures[:8] if not atoms.pbc.any()]
    store = extract(frames, folder / "store", ExtractPlan(spec, dtype="float64")).store
    found = {"schnet": model_file}
    for name, baseline in (("sevennet", "composition"), ("sevennet-own", "backbone")):
        plan = FitPlan(kernel=KernelPlan(length_scales="2x"), landmarks=LandmarkPlan(count=20), baseline=baseline,
                       solver=Direct((1e-6,)), validation=0)  # fmt: skip
        found[name] = folder / f"{name}.mekrr"
        fit(store, plan).model.save(found[name])
    return found
