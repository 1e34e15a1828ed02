"""Peers of ``make bench-gateway``: a reverse proxy in FastAPI as people write it, over aiohttp or over httpx.

``python -m tests.bench.peer_proxies aiohttp|httpx <port> <upstream>``: one uvicorn with uvloop and httptools, no access log.
"""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import httpx
import uvicorn
from fastapi import FastAPI, Request, Response

UPSTREAM = sys.argv[3] if len(sys.argv) > 3 else ""
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "server", "date"}


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


def over_aiohttp() -> FastAPI:
    """With an aiohttp session for the life of the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as session:
            app.state.session = session
            yield

    app = FastAPI(lifespan=lifespan)

    @app.api_route("/{path:path}", methods=METHODS)
    async def proxy(request: Request, path: str) -> Response:
        body = await request.body()
        async with request.app.state.session.request(
            request.method, f"{UPSTREAM}/{path}", headers=_kept(request.headers), params=request.query_params, data=body
        ) as answer:
            return Response(await answer.read(), answer.status, _kept(answer.headers))

    return app


def over_httpx() -> FastAPI:
    """With an httpx client for the life of the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=UPSTREAM) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.api_route("/{path:path}", methods=METHODS)
    async def proxy(request: Request, path: str) -> Response:
        answer = await request.app.state.client.request(
            request.method, f"/{path}", headers=_kept(request.headers), params=request.query_params,
            content=await request.body(),
        )  # fmt: skip
        return Response(answer.content, answer.status_code, _kept(answer.headers))

    return app


def main() -> None:
    """Serve until terminated."""
    app = over_aiohttp() if sys.argv[1] == "aiohttp" else over_httpx()
    uvicorn.run(
        app, port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )  # fmt: skip


if __name__ == "__main__":
    main()
