"""The text of LAMMPS inputs: commands over several lines, comments, quotes (LAMMPS' manual, "Parsing rules")."""

from __future__ import annotations

from collections.abc import Iterator

from mekrr_scale.errors import ConfigError

_TRIPLE = '"""'
_QUOTES = (_TRIPLE, '"', "'")


def commands_of(text: str) -> Iterator[tuple[int, str]]:
    """The commands of a file, with the numbers of their last lines (from 1).

    A line that ends with ``&``, or within three quotes, goes on in the next one.

    >>> list(commands_of("units metal\\nrun &\\n  10 # steps\\n"))
    [(1, 'units metal'), (3, 'run   10 # steps')]
    """
    begun = ""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        begun += line
        stripped = begun.rstrip()
        last = number == len(lines)
        if stripped.endswith("&") and not last:
            begun = stripped[:-1]
        elif begun.count(_TRIPLE) % 2 and not last:
            begun += "\n"
        else:
            yield number, stripped
            begun = ""


def without_comment(text: str) -> str:
    """A command without what follows a ``#`` outside of quotes.

    >>> without_comment("print 'a # b' # c")
    "print 'a # b' "
    """
    place, quote = 0, ""
    while place < len(text):
        if quote:
            if text.startswith(quote, place):
                place, quote = place + len(quote) - 1, ""
        elif text[place] == "#":
            return text[:place]
        else:
            quote = next((each for each in _QUOTES if text.startswith(each, place)), "")
            place += max(len(quote) - 1, 0)
        place += 1
    return text


def words_of(text: str) -> list[str]:
    """The words of a command, without the quotes around them.

    Raises:
        ConfigError: a quote that nothing closes, or that something follows without a space.

    >>> words_of("if '$n > 2' then 'print \\"big\\"' # last")
    ['if', '$n > 2', 'then', 'print "big"']
    """
    rest, found = without_comment(text).strip(), []
    while rest:
        quote = next((each for each in _QUOTES if rest.startswith(each)), "")
        if quote:
            word, closed, rest = rest[len(quote) :].partition(quote)
            if not closed or (rest and not rest[0].isspace()):
                raise ConfigError(f"the quotes of {text.strip()!r} do not match")
        else:
            word = rest.split(maxsplit=1)[0]
            rest = rest[len(word) :]
        found.append(word)
        rest = rest.lstrip()
    return found
