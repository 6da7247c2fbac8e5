"""Which web pages may call the service."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from deployments.ingress.errors import INVALID_REQUEST, envelope

_TOLD_TO_WEB_PAGES = (
    *("x-request-id", "openai-processing-ms", "x-asr-warnings"),
    *("retry-after", "retry-after-ms", "x-should-retry"),  # OpenAI's SDKs heed them
)


class WebPagesMiddleware(CORSMiddleware):
    """Lets web pages of `origins` call the service. What others ask beforehand is refused in OpenAI's form."""

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=_TOLD_TO_WEB_PAGES,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        # Starlette's is plain text, which `ingress.proxy` would take for one of Serve's own errors.
        body = envelope(f"{bytes(response.body).decode()}: see the setting cors_origins.", type=INVALID_REQUEST)
        del response.headers["content-length"], response.headers["content-type"]
        return JSONResponse(body, response.status_code, response.headers)
