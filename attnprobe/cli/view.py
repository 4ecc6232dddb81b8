"""`attnprobe view`."""

from typing import Annotated

import typer

from attnprobe.cli.analysis import By, Key, Measure, Query, Seed, checked_by
from attnprobe.cli.app import app, say
from attnprobe.cli.reports import StyleA, StyleB
from attnprobe.cli.runs import RunFolder


@app.command()
def view(
    run: RunFolder,
    a: StyleA = None,
    b: StyleB = None,
    measure: Measure = "enrichment",
    query: Query = "answer",
    key: Key = "history",
    by: By = "task",
    seed: Seed = 0,
    host: Annotated[str, typer.Option(help="Address to be reached at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.")] = 0,
    allow_remote: Annotated[
        bool,
        typer.Option("--allow-remote", help="Let in other machines; nothing is encrypted."),
    ] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the link.")] = False,
) -> None:
    """Open a whole run in the browser: the page of a report, with every record and head.

    Whoever has the link that is printed can read the run, and nobody else. Ctrl-C ends it.
    """
    from contextlib import nullcontext, suppress

    from attnprobe.report.address import listen
    from attnprobe.report.serving import new_token, opened_in_browser, serve, view_app
    from attnprobe.store import open_run
    from attnprobe.workflows.reporting import ReportSettings, report_payload

    settings = ReportSettings(a, b, measure, query, key, checked_by(by), seed)
    address = listen(host, port, allow_remote=allow_remote)
    with address.socket, open_run(run) as opened:
        say(f"comparing styles in {run}")
        payload = report_payload(opened, settings)
        token = new_token()
        server = serve(view_app(payload, f"attnprobe: {opened.path.name}", token, address), address)
        link = f"{address.origin}/{token}/"
        print(link, flush=True)
        if address.is_remote:
            say("whoever has this link can read the run, and it travels unencrypted")
        if not opened.complete:
            say(f"{run} is not complete: {len(opened.records)} records so far")
        say("Ctrl-C ends it")
        with suppress(KeyboardInterrupt), nullcontext() if no_browser else opened_in_browser(link):
            server.run(sockets=[address.socket])
        say("ended")
