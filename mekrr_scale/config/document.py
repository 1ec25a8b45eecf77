"""The page on the configuration, from the plans themselves: ``python -m mekrr_scale.config.document``.

The documentation makes it anew whenever it is built (mkdocs.yml names this file among its hooks).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic.fields import FieldInfo

from mekrr_scale import solvers
from mekrr_scale.arrays import KINDS
from mekrr_scale.pipeline import FitPlan
from mekrr_scale.plans import fields_of, flag_of, sections, to_dict

_HEAD = """# Configuration

`mekrr-scale fit fit.toml` reads a TOML file; flags override it. In Python the same fields are those of
`mekrr_scale.FitPlan`. A list is a list of candidates, of which cross-validation chooses; one value, or a text with
commas (`"2x,4x"`), may stand for a list. Relative paths count from the file. This page is made from the plans
(`python -m mekrr_scale.config.document`).

```toml
store = ["features"]     # one store or several of the same kind
output = "model.mekrr"
seed = 0

[kernel]
length_scales = ["2x", "4x"]

[rows.weights]
force = [1e-3, 1e-2]

[solver]
name = "falkon"
ridges = [1e-8, 1e-6]
```

Keys of 0.1.0 (`kernel.length_scale`, `solver.force_weight`, `validate`, ...) are still read, with a warning that names
the new ones.
"""


def document() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *_pages()]).rstrip() + "\n"


def on_page_markdown(markdown: str, page: object, **_: object) -> str:
    """What mkdocs shows for a page; called by it."""
    return document() if getattr(page, "title", None) == "Configuration" else markdown


def _pages() -> Iterator[str]:
    for name, info, inner in sections(FitPlan):
        if name == "solver":
            yield from _solvers(info)
        elif inner is None:
            yield f"## `{name}`\n"
            yield _line(name, info, info.get_default(call_default_factory=True))
        else:
            yield f"## `[{name}]`\n\n{_text(inner.__doc__)}\n"
            yield from _fields(inner)


def _solvers(info: FieldInfo) -> Iterator[str]:
    yield "## `[solver]`\n"
    yield _line("name", info, solvers.Direct.name)
    for name, made in solvers.SOLVERS.items():
        cls = getattr(solvers, made)
        about = _text((cls.__doc__ or "").split("\n\n")[0])
        yield f'### `name = "{name}"`\n\n{about}\n'
        yield from _fields(cls)


def _fields(cls: type) -> Iterator[str]:
    defaults = to_dict(cls())
    for name, info in fields_of(cls).items():
        shown = "the job's own folder" if name == "scratch" else defaults[name]
        yield _line(name, info, shown)
        if name == "weights":
            for kind in KINDS.values():
                yield f"    * `{kind.name}` (`--{kind.name}-weight`): {kind.about}\n"


def _line(name: str, info: FieldInfo, default: object) -> str:
    given = flag_of(info)
    flags = f" (`{'`, `'.join(given.names)}`)" if given else ""
    options = f" One of {', '.join(given.choices)}." if given and given.choices else ""
    return f"* **`{name}`**{flags}: {_text(info.description)}{options} Default: `{_shown(default)}`.\n"


def _shown(value: object) -> str:
    if isinstance(value, list) and len(value) > 8:
        return f"{value[0]!r} ... {value[-1]!r} ({len(value)} values)"
    return "none" if value is None else str(value)


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201  it is what it is for
