# One image for every role; its command chooses which: ingest, worker, beat, flower (docs/deploy.md).
# The target "runtime" is what production runs; "embedded" adds the AWS emulator, the sample sinks
# and the sample events, for docker-compose.yml.

FROM python:3.13-slim AS build
LABEL org.opencontainers.image.title=cxone-event-processor
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY requirements requirements
RUN python -m venv --without-pip .venv \
    && pip install --target /opt/build --require-hashes -r requirements/build.lock \
    && pip --python .venv/bin/python install --require-hashes -r requirements/runtime.lock
COPY . .
# The code stays in /app, as in a checkout: what is installed are its commands for celery.
RUN PYTHONPATH=/opt/build pip --python .venv/bin/python install \
        --no-deps --no-build-isolation --editable . \
    && python -m compileall -q celeryconfig.py flowerconfig.py tasks ingest dashboard \
    && mkdir -p /opt/embedded/deploy && mv deploy/*.yaml /opt/embedded/deploy \
    && mv embedded requirements /opt/embedded && rm pyproject.toml README.md


# A container is reached from outside; which ports are published is decided where it is started. Two
# folders are the user's own, and so is a new volume there.
FROM python:3.13-slim AS program
LABEL org.opencontainers.image.title=cxone-event-processor
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    INGEST_HOST=0.0.0.0 FLOWER_ADDRESS=0.0.0.0 HEARTBEAT_FILE=/tmp/heartbeat
WORKDIR /app
# Nothing is written but to /tmp: run it with a read-only root file system and a tmpfs there.
ENTRYPOINT ["/app/deploy/image/entrypoint.sh"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-I", "/app/deploy/image/health.py"]
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin app \
    && install -d -o app -g app /run/secrets /data
COPY --from=build /app /app


FROM program AS runtime
USER app


FROM program AS embedded
COPY --from=build /opt/embedded /app/
RUN pip --python .venv/bin/python install --no-cache-dir --root-user-action ignore \
    --require-hashes -r requirements/embedded.lock
USER app
