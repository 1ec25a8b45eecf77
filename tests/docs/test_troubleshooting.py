"""Messages that the page quotes are the package's: their fixed words stand in its source, in that order."""

import ast
import re

import pytest

from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "troubleshooting.md"
ROW = re.compile(r"^\| `([^`]+)` \| (.+) \| (.+) \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text(encoding="utf-8"))
GAP = "\0"  # where a message holds a name or a number


def templates():
    """Every text of the package but docstrings, pieces joined, with gaps where values are filled in."""
    for path in sorted((ROOT / "mekrr_scale").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        quoted = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        quoted |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in quoted:
                yield node.value


TEXTS = list(templates())


def pattern(message):
    """Its fixed words, with something between them."""
    return re.compile(".*".join(re.escape(words.strip()) for words in message.split("…")), re.DOTALL)


def test_every_row_of_a_table_quotes_a_message():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(lines) - lines.count("| message | why | do |") == len(ROWS)
    messages = [message for message, _, _ in ROWS]
    assert 30 <= len(messages) == len(set(messages))


@pytest.mark.parametrize("message", [message for message, _, _ in ROWS])
def test_messages_are_in_the_source(message):
    assert max(len(words.strip()) for words in message.split("…")) > 6, "too little to search for"
    assert any(pattern(message).search(text) for text in TEXTS), message


def test_a_message_that_nobody_writes_is_found_out():
    for message in ("the store is tired of …", "does not exist; …  the folder"):
        assert not any(pattern(message).search(text) for text in TEXTS)
