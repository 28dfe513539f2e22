# The service alone: no torch, no compiler, no root. Two targets; the last one is the default:
#   docker build -t promptdial .                        # CPU, with the bundle models/small
#   docker build -t promptdial:cuda --target cuda .     # CUDA, for a bundle that is mounted at /bundle
# docs/operating.md has the lines to run them, a base by digest, and a package index of your own.
ARG PYTHON_IMAGE=python:3.12-slim

# --- packages: the locked versions, in an environment that the targets copy; pip stays behind --------------------------
FROM ${PYTHON_IMAGE} AS packages
RUN python3 -m venv --without-pip /opt/venv
ENV PIP_PYTHON=/opt/venv/bin/python \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_DEPS=1 \
    PIP_REQUIRE_HASHES=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

FROM packages AS packages-cpu
COPY requirements/serve.txt /requirements.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf python3 -m pip install -r /requirements.txt

FROM packages AS packages-cuda
COPY requirements/gpu.txt /requirements.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf python3 -m pip install -r /requirements.txt

# --- code: readable for every user, whatever the umask of the checkout -------------------------------------------------
FROM ${PYTHON_IMAGE} AS code
COPY LICENSE /app/
COPY promptdial /app/promptdial
COPY service /app/service
RUN chmod -R a+rX /app

FROM code AS code-and-bundle
COPY models/small /app/models/small
RUN chmod -R a+rX /app

# --- what both targets are ---------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Promptdial" \
      org.opencontainers.image.description="Short text in, prompts out, at the relevance and length asked for" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PROMPTDIAL_HOST=0.0.0.0 \
    PROMPTDIAL_PORT=8000
WORKDIR /app
# A number, so that an orchestrator sees that it isn't root; it needs no name, no home and nothing that it may write.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PROMPTDIAL_PORT'] + '/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["python", "-m", "service"]

# --- the targets -------------------------------------------------------------------------------------------------------
# CUDA and cuDNN are among the locked packages; the host brings the driver, through the NVIDIA container toolkit. The
# int8 bundle models/small is for CPUs, so it is left out.
FROM runtime AS cuda
ENV PROMPTDIAL_DEVICE=cuda \
    PROMPTDIAL_BUNDLE=/bundle \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /opt/venv /opt/venv
COPY --from=code /app /app

FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=code-and-bundle /app /app
