"""Check a config file before it is deployed: `python -m deployments.check serve_config.yaml`.

`serve run` goes on running when an application cannot be built, with the reason at the end of a traceback. This says
the reason in one sentence and exits with 1; else it says what will be served.
"""

import socket
import sys
from pathlib import Path

import yaml
from pydantic import ValidationError

from deployments.asr.checkpoint_files import check_files
from deployments.exceptions import CheckpointError
from deployments.served_model import DEMO, ServedModel, aligner_checkpoint
from deployments.settings import Settings

IMPORT_PATH = "deployments.app:build"


def check(config_file: Path) -> list[str]:
    """Check every application of ours in `config_file`; return one sentence for each on what it will serve.

    Raises:
        ValueError: the settings are wrong, or the file holds no application of ours.
        CheckpointError: the model cannot be served.
        OSError: the file cannot be read, or another service has the address.
    """
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    _check_address(**(config.get("http_options") or {}))
    applications = [app for app in config.get("applications", ()) if app.get("import_path") == IMPORT_PATH]
    if not applications:
        raise ValueError(f"{config_file} has no application with import_path: {IMPORT_PATH}")
    return [_check_application(app.get("args") or {}) for app in applications]


def _check_address(host: str = "127.0.0.1", port: int = 8000, **_: object) -> None:
    """Raise OSError if somebody listens there: Ray's proxy would share the port, and each get some of the requests."""
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


def main() -> None:
    """Check the file named on the command line."""
    try:
        print("\n".join(check(Path(sys.argv[1]))))
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        sys.exit(f"The settings are wrong: {reasons}.")
    except (CheckpointError, ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
