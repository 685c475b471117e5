#!/bin/sh
# The first word of a container's command is its role. The role's program takes the place of this
# shell, so that a signal to the container reaches it. Any other word is a program to run.
set -eu
role=$1
shift
echo "$role" >/tmp/role # for health.py
case $role in
  ingest) exec python -m ingest "$@" ;;
  # Workers need not know of each other: that only slows their start.
  worker) exec celery -A tasks worker --loglevel INFO --without-gossip --without-mingle "$@" ;;
  beat) exec celery -A tasks beat --loglevel INFO --schedule /tmp/beat-schedule --pidfile= "$@" ;;
  flower) exec celery -A tasks flower "$@" ;;
  *) exec "$role" "$@" ;;
esac
