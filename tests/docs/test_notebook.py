"""The notebook in examples/ runs as a newcomer runs it: no error, no page of output, tables and progress are shown."""

import re

import pytest

from tests.docs.pages import ROOT, used_names

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def lines_of(text):
    """What a page shows of a text: of a line that was drawn again and again, its last state."""
    return [line.split("\r")[-1] for line in text.split("\n")]


def test_outputs_are_not_kept():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")  # of jupyter's sockets
def test_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # this package, where another one is installed
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "hcoo_cu110").symlink_to(ROOT / "examples" / "hcoo_cu110")
    notebook = nbformat.read(NOTEBOOK, 4)
    client = nbclient.NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = {cell.source: cell.outputs for cell in cells}
    for source, shown in outputs.items():
        assert not [item for item in shown if item.output_type == "error"], source
        streams = "".join(item.text for item in shown if item.output_type == "stream")
        texts = [item.data.get("text/plain", "") for item in shown if "data" in item]
        for text in (streams, *texts):
            assert len(lines_of(text)) <= 30, source
            assert max(map(len, lines_of(text)), default=0) < 250, source
    (report,) = (shown for source, shown in outputs.items() if source.startswith("report = ms.fit"))
    (html,) = (item.data["text/html"] for item in report if "text/html" in item.get("data", {}))
    assert "<table>" in html
    assert html.count("<tr>") == 5  # names, and a line for each candidate
    assert "energy rmse" in html
    bar = lines_of("".join(item.text for item in report if item.output_type == "stream"))
    assert [re.match(r"(\w+): 100%", line)[1] for line in bar if line] == ["fit", "uncertainty", "outliers"]
    images = [item for shown in outputs.values() for item in shown if "image/png" in item.get("data", {})]
    assert len(images) == 2
    assert {"extract", "fit", "evaluate", "MekrrCalculator", "run_md", "select"} <= set().union(
        *(used_names(cell.source) for cell in cells)
    )
