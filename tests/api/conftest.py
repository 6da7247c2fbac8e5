"""Fixtures of the API tests: the application over fakes, and the official SDK talking to it."""

from collections.abc import AsyncIterator

import httpx2  # what the SDK is built on
import openai
import pytest

from tests.api.fakes import Service


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def sdk(service: Service) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client; it checks every answer against its types."""
    transport = httpx2.ASGITransport(service.app)
    async with openai.AsyncOpenAI(
        http_client=httpx2.AsyncClient(transport=transport),
        base_url="http://service/v1",
        api_key="none",
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client
