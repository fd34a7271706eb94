"""How templates of mails and of web pages are found, run and checked.

A tenant's folder (``TEMPLATES_DIR``) replaces ours file by file, in every language or in one. Templates run in Jinja's sandbox, and an
undefined variable is an error. A mistake in a template is a :class:`~worker.errors.SettingsError` of one line at the start.
"""

import traceback
from collections.abc import Collection, Iterator
from pathlib import Path

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    FileSystemLoader,
    PrefixLoader,
    StrictUndefined,
    Template,
    TemplateSyntaxError,
    select_autoescape,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.channels.wording.languages import Language, languages
from worker.display_names import bdi
from worker.errors import SettingsError


def environment_for(ours: Path, folder: Path | None, language: Language) -> ImmutableSandboxedEnvironment:
    """An environment of templates in this language: those in ``folder``, a tenant's, before ``ours``."""
    own = FileSystemLoader(ours)
    loaders: list[BaseLoader] = [FileSystemLoader(folder)] if folder is not None else []
    environment = ImmutableSandboxedEnvironment(  # for our own templates too: the sandbox costs 8 µs a mail
        loader=ChoiceLoader([*loaders, own, PrefixLoader({"ours": own})]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.filters["bdi"] = bdi
    environment.install_gettext_translations(language.translations, newstyle=True)  # type: ignore[attr-defined]
    return environment


def load(environment: ImmutableSandboxedEnvironment, kind: str, tag: str, name: str) -> Template:
    """The template ``name`` of this kind: the one for the language ``tag``, else the one for all languages."""
    try:
        return environment.select_template([f"{kind}/{tag}/{name}", f"{kind}/{name}"])
    except TemplateSyntaxError as error:
        raise mistake(f"{error.name}, line {error.lineno}: {error.message}") from None
    except UnicodeDecodeError:
        raise mistake(f"{kind}/…/{name}: it is not UTF-8 text") from None
    except OSError as error:
        raise mistake(f"{kind}/…/{name}: {error.strerror}") from None


def check_names(folder: Path, kinds: Collection[str], names: Collection[str], *, others: Collection[str] = ()) -> None:
    """Refuse a file that nothing would use, such as ``reconnect/body.htm``. The folders ``others`` are checked elsewhere."""
    if not folder.is_dir():
        raise mistake("there is no such folder")
    for path in _files(folder):
        name = path.relative_to(folder)
        *folders, file = name.parts
        if any(part.startswith((".", "_")) for part in name.parts) or (folders and folders[0] in others):
            continue
        known = len(folders) in {1, 2} and folders[0] in kinds and set(folders[1:]) <= set(languages())
        if not known or file not in names:
            raise mistake(
                f"{name}: unknown template; expected {', '.join(f'{kind}/{each}' for kind in kinds for each in names)}, or one of "
                f"them in a folder {' or '.join(f'{tag}/' for tag in languages())}; the name of a part to include begins with _"
            )


def failed(error: BaseException, kind: str, language: Language) -> SettingsError:
    """The line about a template that raised ``error`` when it was rendered."""
    where = _place(error, kind)
    return mistake(f"{where}: {' '.join(str(error).split())[:200] or type(error).__name__} (in {language.tag})")


def mistake(text: str) -> SettingsError:
    """The line about a template that cannot be used."""
    return SettingsError(f"settings: TEMPLATES_DIR: {text}")


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise mistake(str(error.strerror)) from None


def _place(error: BaseException, kind: str) -> str:
    """The template and line of an error. Jinja puts the template's file and line into the traceback."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith((".txt", ".html"))
    ]
    return f"{_shown(Path(frames[-1].filename), kind)}, line {frames[-1].lineno}" if frames else kind


def _shown(path: Path, kind: str) -> str:
    parts = path.parts
    if kind not in parts:
        return path.name
    return "/".join(parts[len(parts) - parts[::-1].index(kind) - 1 :])
