"""The ingress deployment: HTTP in front, handles to the ASR and the Aligner deployment behind."""

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.ingress.api import create_app
from deployments.ingress.capacity import Capacity
from deployments.ingress.malloc import return_freed_memory
from deployments.ingress.ray_errors import ClientLeftMiddleware
from deployments.ingress.remote_aligner import RemoteAligner
from deployments.ingress.remote_recognizer import RemoteRecognizer
from deployments.observation.recorders import IngressMetrics
from deployments.replica_health import HEALTH_CHECKS
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.transcriber import Transcriber


@serve.deployment(
    name="Ingress",
    **HEALTH_CHECKS,
    graceful_shutdown_timeout_s=60,
    ray_actor_options={"num_cpus": 0.5},
)
@serve.ingress()
class Ingress:
    """Validates requests, decodes media, renders answers. Never touches torch."""

    def __init__(
        self,
        settings: Settings,
        served_model: ServedModel,
        asr: DeploymentHandle,
        aligner: DeploymentHandle | None = None,
    ):
        return_freed_memory()
        self._settings = settings
        self._served_model = served_model
        self._metrics = IngressMetrics()
        self._capacity = Capacity(settings.max_concurrent_requests)
        self._recognizer = RemoteRecognizer(asr, on_retry=self._metrics.piece_retried)
        self._transcriber = Transcriber(
            self._recognizer,
            max_utterance_s=settings.utterance_limit_s,
            window=settings.utterance_window,
            aligner=RemoteAligner(aligner) if aligner is not None else None,
            on_retry=self._metrics.piece_retried,
            on_guard=self._metrics.guard_acted,
        )

    async def drain(self) -> None:
        """Refuse new requests, and return when those in hand have been answered; see `deployments.run`."""
        await self._capacity.drain()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once this replica is constructed."""
        # Serve's own proxy writes the x-request-id it was given or made; a second one would make it "id, id".
        app = create_app(
            self._transcriber,
            self._settings,
            self._served_model,
            capacity=self._capacity,
            write_request_id=False,
            check_model=self._recognizer.check,
            on_request_end=self._metrics.request_ended,
        )
        app.add_middleware(ClientLeftMiddleware)
        return app
