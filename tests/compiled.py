"""Caches that compile things once for all tests of a process, though each test makes its own engines, environments and settings."""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from jinja2.bccache import Bucket, BytecodeCache


class StatementCache(MutableMapping[Any, Any]):
    """Compiled statements, shared by all engines of one dialect, so that a new engine need not compile them again."""

    def __init__(self) -> None:
        self._compiled: dict[Any, Any] = {}

    def _of(self, key: Any) -> Any:
        return (key[0].name, *key[1:])  # each engine has its own dialect object

    def __getitem__(self, key: Any) -> Any:
        return self._compiled[self._of(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        # SQLAlchemy writes the columns of RETURNING without their table: a subquery there would resolve them to its own tables.
        returned = str(value).partition(" RETURNING ")[2] if key[0].name == "sqlite" else ""
        assert "SELECT" not in returned, f"a subquery in RETURNING, on SQLite: {returned}"
        self._compiled[self._of(key)] = value

    def __delitem__(self, key: Any) -> None:
        del self._compiled[self._of(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._compiled)

    def __len__(self) -> int:
        return len(self._compiled)


class TemplateCache(BytecodeCache):
    """Compiled templates, shared by all environments: the code of a template is the same in every language."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, str], Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._compiled.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._compiled[bucket.key, bucket.checksum] = bucket.code


def once_a_field(ask: Callable[..., Any]) -> Callable[..., Any]:
    """``ask``, a method of a source of settings, with a cache of its answers: they depend only on the field's type."""
    answers: dict[tuple[int, Any], Any] = {}

    def kept(source: Any, field: Any, *more: Any) -> Any:
        key = (id(field), *more)
        if key not in answers:
            answers[key] = (field, ask(source, field, *more))  # with the field, so that its id stays its own
        return answers[key][1]

    return kept
