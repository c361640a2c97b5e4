# `make image` makes the wheels first (dist/wheels) and then this image; the build itself needs no network.
# BASE is any image with Python 3.11 and its venv module, of the machine the wheels were made on.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY dist/wheels /wheels
# Pip has done its work then: what stays is what runs.
RUN python3 -m venv /opt/cistern \
 && /opt/cistern/bin/python -m pip install --quiet --no-cache-dir --no-index --find-links /wheels cistern \
 && /opt/cistern/bin/python -m pip uninstall --quiet --yes setuptools pip \
 && install -d -o 65532 -g 65532 /cache

FROM ${BASE}
LABEL org.opencontainers.image.title="Cistern" \
      org.opencontainers.image.description="A pull-through caching proxy for container registries" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/cistern /opt/cistern
COPY --from=build --chown=65532:65532 /cache /var/lib/cistern

# The registry address serves the network, for a container's loopback serves nobody. The admin address stays on loopback:
# publish it by CISTERN_ADMIN__LISTEN=0.0.0.0:5091, or run the commands inside, where they use the control socket.
ENV PATH=/opt/cistern/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CISTERN_REGISTRY__LISTEN=0.0.0.0:5090 \
    CISTERN_CACHE__DIRECTORY=/var/lib/cistern
EXPOSE 5090
VOLUME /var/lib/cistern
USER 65532:65532

# Draining takes up to 25 s (registry.drain): `docker stop --time 30`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/opt/cistern/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5090/-/ready', timeout=4)"]

ENTRYPOINT ["cistern"]
CMD ["serve"]
