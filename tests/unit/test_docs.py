"""The documentation names what there is."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ray.serve.schema import ServeDeploySchema

from deployments.asr.deployment import BatchingConfig
from deployments.settings import Settings
from deployments.transcription.languages import CODE_TO_NAME

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def _fields(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    return list(model.model_fields.items())


@pytest.mark.parametrize(("name", "field"), [*_fields(Settings), *_fields(BatchingConfig)])
def test_every_setting_is_documented_with_its_default(name: str, field: FieldInfo) -> None:
    default = field.default if isinstance(field.default, str) else repr(field.default)
    assert f"| `{name}` | `{default}` | {field.description} |" in CONFIGURATION


def test_every_language_is_documented() -> None:
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert all(re.search(rf"{name}\s+`{code}`", api) for code, name in CODE_TO_NAME.items())


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"], ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_config_file_has_no_key_that_serve_would_ignore() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    parsed = ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True)

    def known(written: object, kept: object, path: str = "") -> None:
        if isinstance(written, dict) and isinstance(kept, dict):
            for key, value in written.items():
                assert key in kept, f"{path}.{key}"
                known(value, kept[key], f"{path}.{key}")
        elif isinstance(written, list) and isinstance(kept, list):
            for one, other in zip(written, kept, strict=True):
                known(one, other, path)

    known(config, parsed)
    (application,) = config["applications"]
    Settings.model_validate(application["args"])
    (asr,) = [deployment for deployment in application["deployments"] if deployment["name"] == "ASR"]
    BatchingConfig.model_validate(asr["user_config"])
