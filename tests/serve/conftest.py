"""One local Ray cluster for all tests of this folder; each test deploys its own application and takes it down again."""

import socket
from collections.abc import Callable, Iterator

import pytest
import ray
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from benchmarks.service import serve_environment

pytestmark = pytest.mark.serve


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/serve/" in str(item.path):
            item.add_marker(pytest.mark.serve)


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    """Start Ray and Serve; the address of its HTTP proxy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as environment:
        for name, value in serve_environment().items():  # as `make serve` does, whoever runs the tests
            environment.setenv(name, value)
        ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, configure_logging=False)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
        ray.shutdown()


@pytest.fixture
def deploy(base_url: str) -> Iterator[Callable[[Application], DeploymentHandle]]:
    """Run an application at `/` until the end of the test; returns its handle."""

    def run(application: Application) -> DeploymentHandle:
        return serve.run(application, name="test", route_prefix="/")

    yield run
    serve.delete("test")
