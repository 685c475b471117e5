"""``/metrics``: Flower's own, of this process, and the project's, of all processes together."""

from asyncio import to_thread

from flower.views.monitor import Metrics
from prometheus_client import generate_latest

from dashboard.flower.auth import Guard
from tasks.observability.prometheus import CONTENT_TYPE, exposition
from tasks.runtime import redis


class MetricsPage(Guard, Metrics):
    """Both, for Prometheus."""

    async def get(self) -> None:
        """Answer a scrape; without Redis, Flower's metrics are still there."""
        project_metrics = await to_thread(exposition, redis())
        self.application.purge_offline_worker_metrics()
        self.set_header("Content-Type", CONTENT_TYPE)
        self.write(generate_latest() + project_metrics)
