"""The documentation names what there is."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from deployments.batching import BatchingConfig
from deployments.settings import Settings
from deployments.transcription.languages import CODE_TO_NAME
from tests import serve_config

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


CONFIG_FILE = (ROOT / "serve_config.yaml").read_text(encoding="utf-8")


def _asr_of(text: str) -> dict[str, Any]:
    """The ASR deployment of a config file, of which every key was checked."""
    config = yaml.safe_load(text)
    assert serve_config.check(config).model == "demo"
    (asr,) = [deployment for deployment in config["applications"][0]["deployments"] if deployment["name"] == "ASR"]
    return asr


def test_the_config_file_has_no_key_that_serve_would_ignore() -> None:
    assert _asr_of(CONFIG_FILE)["num_replicas"] == 1, "one machine is not autoscaled"


def test_the_autoscaling_block_can_be_pasted() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(      - name: ASR\n.*?)```", page, re.DOTALL)
    assert block
    written = _asr_of(CONFIG_FILE[: CONFIG_FILE.index("      - name: ASR")] + block[1])["autoscaling_config"]
    config = AutoscalingConfig.model_validate(written)
    assert set(written["policy"]) <= set(AutoscalingPolicy.model_fields)
    policy = config.policy.get_policy()
    policy(**config.policy.policy_kwargs)
    for name, parameter in inspect.signature(policy).parameters.items():
        default = "" if parameter.default is parameter.empty else f"`{parameter.default}` "
        assert f"| `{name}` | {default}|" in page
