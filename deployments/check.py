"""Check a config file before it is deployed: `python -m deployments.check serve_config.yaml`.

`serve run` goes on running when an application cannot be built, with the reason at the end of a traceback. This says
the reason in one sentence and exits with 1; else it says what will be served.
"""

import argparse
import socket
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from deployments.asr.checkpoint_files import check_files
from deployments.exceptions import CheckpointError
from deployments.served_model import DEMO, ServedModel, aligner_checkpoint
from deployments.settings import Settings

IMPORT_PATH = "deployments.app:build"


class _HttpOptions(BaseModel):
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


class _Application(BaseModel):
    import_path: str | None = None
    args: dict[str, Any] | None = None


class _Config(BaseModel):
    """What is looked at here; the rest is Serve's."""

    http_options: _HttpOptions | None = None
    applications: list[_Application] = []


def check(config_file: Path) -> list[str]:
    """Check every application of ours in `config_file`; return one sentence for each on what it will serve.

    Raises:
        ValueError: the settings are wrong, or the file is no config, or holds no application of ours.
        CheckpointError: the model cannot be served.
        OSError: the file cannot be read, or another service has the address.
    """
    config = _read(config_file)
    _check_address(config.http_options or _HttpOptions())
    applications = [application for application in config.applications if application.import_path == IMPORT_PATH]
    if not applications:
        raise ValueError(f"{config_file} has no application with import_path: {IMPORT_PATH}")
    return [_check_application(application.args or {}) for application in applications]


def _read(config_file: Path) -> _Config:
    try:
        with config_file.open(encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{config_file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{config_file} is no config of Ray Serve: it holds no keys")
    try:
        return _Config.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{config_file} is no config of Ray Serve: {_reasons(error)}") from None


def _check_address(options: _HttpOptions) -> None:
    """Raise OSError if somebody listens there: Ray's proxy would share the port, and each get some of the requests."""
    host, port = options.host, options.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger there
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose: make serve PORT=8123") from None


def _check_application(args: dict[str, object]) -> str:
    settings = Settings.model_validate(args)
    served_model = ServedModel.of(settings)
    check_files(served_model.checkpoint)
    aligner = aligner_checkpoint(settings)
    if aligner is not None:
        check_files(aligner, "aligner")
    words = f" Word times: {settings.aligner}." if aligner is not None else ""
    if settings.model == DEMO:
        return (
            f"Serving {served_model.id}, the bundled DEMO checkpoint: it knows some hundred words of synthetic English "
            f"and Mandarin. For the real model set ASR_MODEL=Qwen/Qwen3-ASR-1.7B (or a folder).{words}"
        )
    return f"Serving {served_model.id} from {served_model.checkpoint}.{words}"


def _reasons(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())


def main() -> None:
    """Check the file named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config_file", type=Path, help="what would be given to `serve run`")
    try:
        print("\n".join(check(parser.parse_args().config_file)))
    except ValidationError as error:
        sys.exit(f"The settings are wrong: {_reasons(error)}.")
    except (CheckpointError, ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
