# The whole server in one image: launcher, control, gateways and workers. Build it from the repository's root:
#   docker build --file docker/gateway.Dockerfile --tag seaway .
FROM python:3.12-slim AS build
WORKDIR /source
RUN python -m venv /opt/seaway
# The dependencies change less often than the code: their layer is made from pyproject.toml and an empty package.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir -p src/seaway && echo '__version__ = "0"' > src/seaway/__init__.py \
    && /opt/seaway/bin/pip install --no-cache-dir '.[text,image,postgres,data]' \
    && /opt/seaway/bin/pip uninstall --yes seaway
COPY src src
RUN /opt/seaway/bin/pip install --no-cache-dir --no-deps . && rm -rf src/seaway/__pycache__

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/seaway --create-home seaway
COPY --from=build /opt/seaway /opt/seaway
USER seaway
WORKDIR /var/lib/seaway
VOLUME /var/lib/seaway
# Beyond loopback Seaway wants a key: docker run --env SEAWAY_API_KEY=... (it refuses to start without).
ENV PATH=/opt/seaway/bin:$PATH PYTHONUNBUFFERED=1 \
    SEAWAY_HOME=/var/lib/seaway SEAWAY_HOST=0.0.0.0 SEAWAY_PORT=8080 SEAWAY_LOG_FORMAT=json
EXPOSE 8080
# Healthy means ready: every deployment found at the start answers or has said why not.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-c", "\
import os, urllib.request as r; \
r.urlopen(r.Request(f\"http://127.0.0.1:{os.environ['SEAWAY_PORT']}/v2/health/ready\", \
headers={'X-API-Key': os.environ.get('SEAWAY_API_KEY', '')}), timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["seaway", "serve"]
