"""The system in containers, as docker-compose.yml describes it: ``make test-docker``."""
