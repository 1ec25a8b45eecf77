"""Where a module is mutated, by cosmic-ray's operators, and how."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

# An operator of arithmetic becomes the one that is mistaken for it; bits and shifts of floats are noticed by everybody.
# `is` for `==` is the same for most of what is compared; the variable operators need arguments.
SWAPPED = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Div FloorDiv_Mul Mod_FloorDiv Mod_Mul Pow_Mul Pow_Div BitOr_BitAnd"
SWAPPED += " BitAnd_BitOr LShift_RShift RShift_LShift"
TAKEN = re.compile(
    rf"core/(ReplaceBinaryOperator_({SWAPPED.replace(' ', '|')})|ReplaceComparisonOperator_(?!.*Is)\w+"
    r"|ReplaceComparisonOperator_(Is_IsNot|IsNot_Is)|ReplaceUnaryOperator_Delete_\w+|AddNot|ReplaceTrueWithFalse"
    r"|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue|ReplaceContinueWithBreak"
    r"|ExceptionReplacer|NumberReplacer|RemoveDecorator|ZeroIterationForLoop)$"
)
# calls whose arguments are words for the user
WORDS = {"warn", "note", "progress", "warning", "warn_unsealed"}
# for readers and type checkers
TYPED = {"final", "override", "overload", "abstractmethod", "runtime_checkable"}
Place = tuple[int, int]


@dataclass(frozen=True)
class Mutant:
    """One change: the `occurrence`-th that `operator` can make in a file."""

    room: str
    path: str
    operator: str
    occurrence: int
    start: Place
    end: Place

    @property
    def id(self) -> str:
        return f"{self.path}:{self.start[0]}:{self.start[1]} {self.operator.removeprefix('core/')}#{self.occurrence}"


def mutants_of(room: str, path: str, code: str) -> Iterator[Mutant]:
    nodes = list(ast_nodes(get_ast(code)))
    left_out = list(_left_out(ast.parse(code)))
    for name in filter(TAKEN.match, sorted(operator_names())):
        operator = get_operator(name)()
        places = [place for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(places):
            mutant = Mutant(room, path, name, occurrence, start, end)
            if not any(first <= start < last for first, last in left_out):
                yield mutant


def mutated(code: str, mutant: Mutant) -> str:
    changed = mutate_code(code, get_operator(mutant.operator)(), mutant.occurrence)
    assert changed is not None
    return changed


def compiles(code: str, mutant: Mutant) -> bool:
    try:
        compile(mutated(code, mutant), mutant.path, "exec")
    except (SyntaxError, AttributeError):  # cosmic-ray cannot replace an exception of a dotted name
        return False
    return True


def _left_out(tree: ast.Module) -> Iterator[tuple[Place, Place]]:
    """Annotations, what an error says, words for the user, imports for type checkers, decorators for readers."""
    for node in ast.walk(tree):
        for part in _silent(node):
            yield (part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)
        for each in getattr(node, "decorator_list", []):
            if isinstance(each, ast.Name) and each.id in TYPED:
                yield (each.lineno, 0), (each.lineno, each.end_col_offset or 0)


def _silent(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    match node:
        case ast.AnnAssign():
            yield node.annotation
        case ast.arg(annotation=ast.expr() as annotation):
            yield annotation
        case ast.FunctionDef(returns=ast.expr() as returns):
            yield returns
        case ast.keyword(arg="frozen"):
            yield node.value
        case ast.Raise():
            yield node
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in WORDS or name.endswith("Error"):
            yield from node.args
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            yield node


@lru_cache(maxsize=64)
def _statements(code: str) -> list[tuple[int, int, set[int]]]:
    """First and last line of every statement (of a compound one its head), and the lines that show that it matters."""
    tree = ast.parse(code)
    every = set(range(1, code.count("\n") + 2))
    found: list[tuple[int, int, set[int]]] = []

    def enter(body: list[ast.stmt], owner: set[int] | None) -> None:
        for node in body:
            inner = list(_bodies(node))
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
            head = min(part[0].lineno for part in inner) - 1 if inner else (node.end_lineno or 0)
            lines = set(range(first, (node.end_lineno or 0) + 1))
            defines = isinstance(node, ast.FunctionDef | ast.ClassDef)
            found.append((first, max(head, first), lines if defines else owner or set(range(first, head + 1))))
            for part in inner:
                enter(part, None if isinstance(node, ast.FunctionDef) else lines if defines else owner)

    enter(tree.body, every)
    return found


def _bodies(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        if part := getattr(node, name, None):
            yield part
    for handler in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
        yield handler.body


def statement_lines(code: str, line: int) -> set[int]:
    """The lines that a test has to run to see a change in `line`: of what runs at import, a whole function or class."""
    around = [(last - first, lines) for first, last, lines in _statements(code) if first <= line <= last]
    return min(around, key=lambda each: each[0])[1] if around else {line}
