"""Running the server."""

from pathlib import Path

from reid_da.errors import InputError
from reid_da.serve.settings import ServeSettings


def run(index: Path, settings: ServeSettings, *, model: str | None = None, device: str = "auto") -> None:
    """Serve an index until the process is interrupted.

    Args:
        index: folder of the index.
        settings: address, limits, token.
        model: where the model of the index is, if it has moved.
        device: where it computes.

    Raises:
        InputError: the extra ``serve`` is not installed, or the index or its model cannot be used.
        OSError: the address is taken.
    """
    try:
        import uvicorn

        from reid_da.serve.app import create_app
        from reid_da.serve.session import Session
    except ImportError as error:
        raise InputError(f"the page needs the extra serve: pip install 'reid-da[serve]' ({error})") from error
    session = Session(index, model=model, device=device, max_pixels=settings.max_pixels, blur_faces=settings.blur_faces)
    app = create_app(session, settings)
    # no header of a request is believed about who sent it; no log of addresses: searches are in the audit log
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_level="warning", access_log=False, proxy_headers=False,
        server_header=False, limit_concurrency=256, timeout_keep_alive=15,
    )  # fmt: skip
    uvicorn.Server(config).run()
