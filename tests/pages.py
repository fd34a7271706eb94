"""The documents as tests read them: sections, tables, blocks of code, links."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]


class Page:
    """One Markdown file; ``path`` is relative to the repository."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = (ROOT / path).read_text(encoding="utf-8")
        #: Without blocks of code.
        self.prose = re.sub(r"^ *```.*?^ *```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    def __repr__(self) -> str:
        return self.path

    def section(self, heading: str) -> str:
        """The text below a heading, up to the next heading of the same or a higher level."""
        match = re.search(rf"^(#+) {re.escape(heading)}$", self.text, re.MULTILINE)
        assert match, f"{self.path}: no section {heading!r}"
        rest = self.text[match.end() :]
        following = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
        return rest[: following.start()] if following else rest

    def blocks(self, language: str) -> list[str]:
        """The code blocks of a language."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    def code(self) -> list[str]:
        """Every piece of code: inline, or a line of a shell block without its comment."""
        lines = "".join(self.blocks("sh")).splitlines()
        return [*re.findall(r"`([^`\n]+)`", self.prose), *(re.sub(r"\s#.*", "", line) for line in lines)]

    def anchors(self) -> list[str]:
        """The anchors of the headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]

    def links(self) -> list[tuple[Path, str]]:
        """The files that relative links and pictures lead to, each with its anchor."""
        targets = [*re.findall(r"\]\(([^)\s]+)\)", self.prose), *re.findall(r'src="([^"]+)"', self.prose)]
        found = []
        for target in targets:
            path, _, anchor = unquote(target).partition("#")
            if "://" not in target:
                found.append(((ROOT / self.path).parent / path if path else ROOT / self.path, anchor))
        return found


def tables(text: str) -> Iterator[list[str]]:
    """The cells of every row of every table, headings left out."""
    for line, following in zip(lines := text.splitlines(), [*lines[1:], ""], strict=True):
        if line.startswith("|") and not line.startswith("|---") and not following.startswith("|---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


README = Page("README.md")
RUNBOOK = Page("docs/runbook.md")
#: The pages in ``docs/``, by name.
DOCS = {path.stem: Page(str(path.relative_to(ROOT))) for path in sorted((ROOT / "docs").glob("*.md"))}
#: All pages, including those for developers.
PAGES = [
    README,
    *DOCS.values(),
    *map(
        Page,
        ("CONTRIBUTING.md", "CHANGELOG.md", "ops/bench/NOTES.md", "ops/bench/RESULTS.md", "tests/faults/README.md"),
    ),
]
