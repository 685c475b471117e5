# One image for every role; its command chooses which: ingest, worker, beat, flower (docs/deploy.md).
# The target "runtime" is what production runs; "embedded" adds the AWS emulator, the sample sinks
# and the sample events, for docker-compose.yml.

FROM python:3.13-slim AS build
LABEL org.opencontainers.image.title=cxone-event-processor
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY requirements requirements
RUN python -m venv --without-pip /opt/venv \
    && pip install --target /opt/build --require-hashes -r requirements/build.lock \
    && pip --python /opt/venv/bin/python install --require-hashes -r requirements/runtime.lock
COPY . .
# The code stays in /app, as in a checkout: what is installed are its commands for celery.
RUN PYTHONPATH=/opt/build pip --python /opt/venv/bin/python install \
        --no-deps --no-build-isolation --editable . \
    && mkdir -p /opt/embedded/deploy && mv embedded /opt/embedded \
    && mv deploy/*.yaml /opt/embedded/deploy \
    && rm -r requirements pyproject.toml README.md && python -m compileall -q .


# What every target has: a user of its own, to whom new volumes at these two belong. A container is
# reached from outside: which ports are published is decided where it is started.
FROM python:3.13-slim AS base
LABEL org.opencontainers.image.title=cxone-event-processor
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin app \
    && install -d -o app -g app /run/secrets /data
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    INGEST_HOST=0.0.0.0 FLOWER_ADDRESS=0.0.0.0 HEARTBEAT_FILE=/tmp/heartbeat
WORKDIR /app
USER app
# Nothing is written but to /tmp: run it with a read-only root file system and a tmpfs there.
ENTRYPOINT ["/app/deploy/image/entrypoint.sh"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-I", "/app/deploy/image/health.py"]


FROM base AS runtime
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app


FROM build AS build-embedded
COPY requirements/embedded.lock /tmp/
RUN pip --python /opt/venv/bin/python install --require-hashes -r /tmp/embedded.lock


FROM base AS embedded
COPY --from=build-embedded /opt/venv /opt/venv
COPY --from=build-embedded /app /opt/embedded /app/
