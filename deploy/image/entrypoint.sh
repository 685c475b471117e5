#!/bin/sh
# The first word of a container's command is its role, or a program to run. exec replaces this shell
# by that program, so that it receives the signals to the container.
set -eu
role=$1
shift
echo "$role" >/tmp/role # for health.py
case $role in
  ingest) exec python -m ingest "$@" ;;
  # Workers do not need gossip and mingle, which slow their start.
  worker) exec celery -A tasks worker --loglevel INFO --without-gossip --without-mingle "$@" ;;
  beat) exec celery -A tasks beat --loglevel INFO --schedule /tmp/beat-schedule --pidfile= "$@" ;;
  flower) exec celery -A tasks flower "$@" ;;
  *) exec "$role" "$@" ;;
esac
