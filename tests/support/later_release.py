"""Makes a worker one of a later release: ``celery worker -I tests.support.later_release``."""

from tasks.worker import publish

publish.MESSAGE_SCHEMA += 1
