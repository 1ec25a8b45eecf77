"""CHGNet's features as TorchScript: the wheel's layers, as ``Chgnet.on_edges`` calls them."""

import math
from typing import Any, cast, no_type_check

import torch
from torch import Tensor, nn

from mekrr_scale.backbones import Chgnet


@no_type_check
class Radial(nn.Module):
    """Bessel functions times a polynomial cutoff, and the cutoff alone."""

    frequencies: Tensor  # (radial,)

    def __init__(self, basis: Any) -> None:
        super().__init__()
        form = basis.smooth_cutoff
        self.inverse, self.norm = float(basis.inv_cutoff), float(basis.norm_const)
        self.p, self.a, self.b, self.c = float(form.p), float(form.a), float(form.b), float(form.c)
        self.register_buffer("frequencies", basis.frequencies.detach().clone())

    def envelope(self, lengths: Tensor) -> Tensor:
        scaled = lengths[:, None] * self.inverse
        p = self.p
        smooth = 1 + self.a * scaled**p + self.b * scaled ** (p + 1) + self.c * scaled ** (p + 2)
        return torch.where(scaled < 1, smooth, torch.zeros_like(smooth))

    def forward(self, lengths: Tensor) -> Tensor:
        scaled = lengths[:, None] * self.inverse
        value = self.norm * torch.sin(self.frequencies * scaled) / lengths[:, None]
        return torch.where(scaled < 1, self.envelope(lengths) * value, torch.zeros_like(value))


@no_type_check
def sum_by(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sums of rows that share an index."""
    return torch.zeros(size, values.shape[1], dtype=values.dtype, device=values.device).index_add(0, index, values)


@no_type_check
class Connectivity(nn.Module):
    """The bond of each edge, an edge of each bond, and the angles: ordered pairs of short edges of an atom."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def bonds(self, n_atoms: int, edges: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        centre, neighbour = edges[0], edges[1]
        if centre.shape[0] == 0:
            return centre, centre
        span = int(shift.abs().max()) + 1
        base = 2 * span + 1
        flat = ((shift[:, 0] + span) * base + shift[:, 1] + span) * base + shift[:, 2] + span
        mirrored = base * base * base - 1 - flat
        backward = (centre > neighbour) | ((centre == neighbour) & (flat < mirrored))
        low, high = torch.minimum(centre, neighbour), torch.maximum(centre, neighbour)
        key = (low * n_atoms + high) * (base * base * base) + torch.where(backward, mirrored, flat)
        ordered, order = torch.sort(key, stable=True)
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[1:] = ordered[1:] != ordered[:-1]
        edge_bond = torch.zeros_like(key)
        edge_bond[order] = torch.cumsum(new.to(torch.int64), 0) - 1
        return edge_bond, order[new]

    def forward(self, centre: Tensor, lengths: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
        short = torch.nonzero(lengths < self.cutoff)[:, 0]
        short = short[torch.argsort(centre[short], stable=True)]
        degree = torch.bincount(centre[short], minlength=n_atoms)
        start = torch.cumsum(degree, 0) - degree
        partners = degree[centre[short]]
        first = torch.repeat_interleave(torch.arange(short.shape[0], device=short.device), partners)
        before = torch.repeat_interleave(torch.cumsum(partners, 0) - partners, partners)
        second = start[centre[short][first]] + torch.arange(first.shape[0], device=short.device) - before
        different = first != second
        return short[first[different]], short[second[different]]


@no_type_check
class ChgnetFeatures(nn.Module):
    """Features, and the network's own energies of atoms (eV) where they are asked for."""

    fourier: Tensor  # (frequencies,)
    composition: Tensor  # (94,) | eV, by atomic number less one

    def __init__(self, backbone: Chgnet, energies: bool) -> None:
        super().__init__()
        net = cast(Any, backbone.module)
        basis = net.bond_basis_expansion
        self.chosen = backbone.layer.split("+")
        self.energies, self.per_bond, self.per_angle = energies, backbone.per_bond, backbone.per_angle
        self.connectivity = Connectivity(backbone.bond_cutoff)
        self.long, self.short = Radial(basis.rbf_expansion_ag), Radial(basis.rbf_expansion_bg)
        self.register_buffer("fourier", net.angle_basis_expansion.fourier_expansion.frequencies.detach().clone())
        self.atom_embedding, self.bond_embedding = net.atom_embedding.embedding, net.bond_embedding
        self.angle_embedding, self.atom_gates, self.bond_gates = (
            net.angle_embedding, net.bond_weights_ag, net.bond_weights_bg,
        )  # fmt: skip
        kind, end = self.chosen[-1].rstrip("0123456789"), int(self.chosen[-1][-1])
        depth = len(net.atom_conv_layers) if energies else end
        inner = len(net.bond_conv_layers) if energies else end - (kind == "conv")
        self.inner = inner
        self.messages = nn.ModuleList([layer.twoBody_atom for layer in net.atom_conv_layers[:depth]])
        self.outs = nn.ModuleList([layer.mlp_out for layer in net.atom_conv_layers[:depth]])
        self.bond_messages = nn.ModuleList([layer.twoBody_bond for layer in net.bond_conv_layers[:inner]])
        self.bond_outs = nn.ModuleList([layer.mlp_out for layer in net.bond_conv_layers[:inner]])
        self.turns = nn.ModuleList([layer.twoBody_bond for layer in net.angle_layers[:inner]])
        self.last = len(net.atom_conv_layers) - 1
        self.readout_norm = nn.Identity() if net.readout_norm is None else net.readout_norm
        self.mlp = net.mlp
        self.register_buffer("composition", net.composition_model.fc.weight[0].detach().clone())
        for module in self.modules():
            if isinstance(module, nn.Dropout):  # the wheel gives a whole number, which TorchScript refuses
                module.p = float(module.p)

    def forward(
        self, numbers: Tensor, owner: Tensor, n_systems: int, edges: Tensor, shifts: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        n = numbers.shape[0]
        centre, neighbour = edges[0], edges[1]
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        edge_bond, bond_edge = self.connectivity.bonds(n, edges, shifts)
        edge, other = self.connectivity(centre, lengths, n)
        first, second, middle = edge_bond[edge], edge_bond[other], centre[edge]
        bond_lengths = lengths[bond_edge]
        radial = self.long(bond_lengths)
        atom_gate = self.atom_gates(radial)[edge_bond]
        bond_gate = self.bond_gates(self.short(bond_lengths))
        bond_gate = bond_gate[first] * bond_gate[second]
        units = vectors / lengths[:, None]
        cosine = (units[edge] * units[other]).sum(1) * (1 - 1e-6)
        phase = torch.acos(cosine)[:, None] * self.fourier
        constant = torch.full_like(cosine[:, None], math.sqrt(0.5))
        angle = self.angle_embedding(torch.cat([constant, phase.sin(), phase.cos()], 1) / math.sqrt(math.pi))
        atom, bond = self.atom_embedding(numbers - 1), self.bond_embedding(radial)
        found: dict[str, Tensor] = {}
        for depth, (message, out) in enumerate(zip(self.messages, self.outs)):  # noqa: B905
            sent = message(torch.cat([atom[centre], bond[edge_bond], atom[neighbour]], 1)) * atom_gate
            atom = atom + out(sum_by(sent, centre, n))
            if depth == self.last:
                atom = self.readout_norm(atom)
            found["conv" + str(depth + 1)] = atom
            for inner, (bend, grow, turn) in enumerate(zip(self.bond_messages, self.bond_outs, self.turns)):  # noqa: B905
                if inner == depth:
                    sent = bend(torch.cat([bond[first], bond[second], angle, atom[middle]], 1)) * bond_gate
                    bond = bond + grow(sum_by(sent, first, bond.shape[0]))
                    name = "bond" + str(depth + 1)
                    if name in self.chosen:
                        found[name] = (
                            sum_by((bond * self.long.envelope(bond_lengths))[edge_bond], centre, n) / self.per_bond
                        )
                    name = "angle" + str(depth + 1)
                    if depth + 1 < self.inner or name in self.chosen:  # nothing else asks for the angles
                        angle = angle + turn(torch.cat([bond[first], bond[second], angle, atom[middle]], 1))
                    if name in self.chosen:
                        weight = self.short.envelope(bond_lengths)
                        found[name] = sum_by(angle * (weight[first] * weight[second]), middle, n) / self.per_angle
        features = torch.cat([found[name] for name in self.chosen], 1)
        if not self.energies:
            return features, features[:, 0] * 0.0
        return features, self.mlp(atom)[:, 0] + self.composition[numbers - 1]
