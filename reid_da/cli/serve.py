"""``reid-da serve``: a page for an index."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.index import Device, Index
from reid_da.cli.output import check_output, say, show_log
from reid_da.errors import InputError


def serve(
    index: Index,
    host: Annotated[str, typer.Option(help="Address to listen at; any but those of this machine need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    token: Annotated[Path | None, typer.Option(help="File with the token that clients have to send.")] = None,
    new_token: Annotated[Path | None, typer.Option(help="File to write a new token to.")] = None,
    max_upload: Annotated[int, typer.Option(min=1, help="Largest upload in MiB.")] = 10,
    rate: Annotated[int, typer.Option(min=0, help="Requests a minute of one client; 0: any.")] = 600,
    audit: Annotated[Path | None, typer.Option(help="File for a line of JSON per search and change.")] = None,
    blur_faces: Annotated[bool, typer.Option("--blur-faces", help="Blur the upper part of all crops shown.")] = False,
    model: Annotated[str | None, typer.Option(help="Where the model of the index is now, if it has moved.")] = None,
    device: Device = "auto",
) -> None:
    """A page to search an index by pictures and to correct its identities; for this machine only by default.

    Pictures that are uploaded are not kept. The page needs nothing from the internet. Encryption is not done here: put
    a proxy with TLS in front where others connect.

    Example: reid-da serve crops.index

    Example: reid-da serve crops.index --host 0.0.0.0 --new-token token.txt --audit audit.jsonl
    """
    from reid_da.atomic import write_text
    from reid_da.serve.run import run
    from reid_da.serve.settings import ServeSettings, read_token
    from reid_da.serve.settings import new_token as make_token

    show_log()
    if token is not None and new_token is not None:
        raise InputError("give a token or ask for a new one, not both")
    secret = None if token is None else read_token(token)
    if new_token is not None:
        check_output(new_token)
        secret = make_token()
        write_text(new_token, secret + "\n")
        new_token.chmod(0o600)
    settings = ServeSettings(
        host=host, port=port, token=secret, max_upload=max_upload * 2**20, requests_per_minute=rate, audit=audit,
        blur_faces=blur_faces,
    )  # fmt: skip
    say(f"http://{host}:{port}/ (end with Ctrl-C)")
    run(index, settings, model=model, device=device)
