"""The product defines no name that only tests use."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import worker

ROOT = Path(worker.__file__).parent
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
WORDS = Counter(word for text in SOURCES.values() for word in re.findall(r"\w+", text))

#: Tables of the two state machines: tests compare them with the pictures in ``docs/`` and with every transition that the fault tests record.
HELD_BY_TESTS = {"RECONNECTION_STEPS", "NOTIFICATION_STEPS"}
#: Used by a migration.
HELD_BY_MIGRATIONS = {"creating"}
#: Libraries find these methods by their names.
FOUND_BY_NAME = re.compile(r"__\w+__|handle_\w+")  # aiosmtpd


def defined_in(tree: ast.Module) -> Iterator[str]:
    """Functions, classes and constants of a module, and methods of its classes. Left out: names that a base class or a decorator may call."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef) or (isinstance(node, ast.ClassDef) and node.bases):
            continue
        for each in node.body:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not each.decorator_list:
                yield each.name
            elif isinstance(each, ast.Assign | ast.AnnAssign) and node is tree:
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def dead(sources: dict[str, str], words: Counter[str]) -> list[str]:
    return [
        f"{path}: {name}"
        for path, text in sources.items()
        for name in defined_in(ast.parse(text))
        if words[name] == 1 and name not in HELD_BY_TESTS | HELD_BY_MIGRATIONS and not FOUND_BY_NAME.fullmatch(name)
    ]


def test_every_name_is_used_by_the_product_itself() -> None:
    """A name that occurs only once in all sources occurs only in its definition."""
    assert not dead({str(path.relative_to(ROOT)): text for path, text in SOURCES.items()}, WORDS)


def test_a_name_without_a_user_is_found_wherever_it_is_defined() -> None:
    text = (
        "A = 1\nB: int = 2\ndef c(): ...\nclass D:\n    async def e(self): ...\nclass F(D):\n    def tick(self): F(A)"
    )
    assert dead({"x": text}, Counter(re.findall(r"\w+", text))) == ["x: B", "x: c", "x: e"]
