"""Makes a worker one of a later release: ``celery worker -I tests.integration.later_release``."""

import tasks.celery

tasks.celery.MESSAGE_SCHEMA += 1
