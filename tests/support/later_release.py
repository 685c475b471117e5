"""Makes a worker one of a later release: ``celery worker -I tests.support.later_release``."""

import tasks.celery

tasks.celery.MESSAGE_SCHEMA += 1
