# The coordinator, one image for all its roles: the API unless another command of the Procfile is given.
#
#   docker build -t kelpie .
#   docker run --read-only --cap-drop ALL -p 8080:8080 --env-file .env kelpie
#
# Plain instructions only: it builds with BuildKit and without.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS packages
COPY requirements/api.txt /requirements.txt
# Without a pip of its own, for nothing is ever installed into a running container.
RUN python3 -m venv --without-pip /venv \
    && python3 -m pip --python /venv/bin/python install --quiet --no-cache-dir --no-input --only-binary :all: \
        --require-hashes --requirement /requirements.txt

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="kelpie" \
      org.opencontainers.image.description="The coordinator of Kelpie: API, migrations, webhooks" \
      org.opencontainers.image.licenses="MIT"
# A number, so that an orchestrator can see that it is not root.
RUN groupadd --gid 10001 kelpie \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin kelpie \
    # A volume that is mounted here takes its owner from it.
    && install --directory --owner 10001 --group 10001 --mode 700 /run/kelpie
COPY --from=packages /venv /venv
WORKDIR /app
COPY . .
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Readable whatever the umask of the checkout; bytecode is made now, for the running program may write nowhere.
RUN chmod -R a+rX,go-w . && PYTHONDONTWRITEBYTECODE= python -m compileall -q kelpie_api
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
# gunicorn's own files lie in shared memory, which a read-only container has as well.
CMD ["gunicorn", "--worker-tmp-dir", "/dev/shm", "wsgi:app"]
