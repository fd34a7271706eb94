"""`link`: a fresh durable link for one user, for support or for the company's own message."""

from typing import Any

import typer

from worker.cli.meaning import check_user, nearest_guid
from worker.cli.session import AsJson, aside, print_json, run, when
from worker.errors import SettingsError, WorkerError
from worker.runtime import Runtime
from worker.stages.linking import fresh_link
from worker.store.addresses import AddressStore
from worker.store.queries.lookup import LookupStore


def add_to(app: typer.Typer) -> None:
    app.command("link")(link)


def link(user: str = typer.Argument(..., metavar="USR-…", help="Whose link."), *, as_json: bool = AsJson) -> None:
    """Print a fresh link to all that a user has to reconnect. Whoever has it can open the way to the user's banks."""
    check_user(user)
    fresh = run(lambda runtime: make_link(runtime, user))
    if as_json:
        print_json(fresh)
        return
    typer.echo(fresh["link"])
    aside.print(f"It leads on until {when(fresh['expires_at'])}, while anything of the user is open.")


async def make_link(runtime: Runtime, user: str) -> dict[str, Any]:
    if runtime.settings.public_base_url is None:
        raise SettingsError("settings: PUBLIC_BASE_URL is missing: without it there are no links of ours")
    fresh = await fresh_link(runtime, user)
    if fresh is not None:
        return {"user_guid": user, "link": fresh.page, "expires_at": fresh.until}
    if await AddressStore(runtime.database).users([user]) or await LookupStore(runtime.database).members_of(user):
        raise WorkerError(f"link: {user} has nothing to reconnect")
    raise WorkerError(f"{user} is not in the database{await nearest_guid(runtime.database, user)}")
