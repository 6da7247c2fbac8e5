from collections.abc import Iterator

import pytest

from benchmarks.service import Service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/end_to_end/" in str(item.path):
            item.add_marker(pytest.mark.end_to_end)


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One running service with the demo checkpoint."""
    service = Service(tmp_path_factory.mktemp("service") / "serve.log")
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()
