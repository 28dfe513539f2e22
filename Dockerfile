# The service on a CPU with the bundle models/small: no torch, no compiler, not root.
#   docker build -t promptdial . && docker run --rm -p 8000:8000 promptdial
FROM python:3.12-slim

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PROMPTDIAL_HOST=0.0.0.0 \
    PROMPTDIAL_PORT=8000

WORKDIR /app
RUN useradd --system --uid 10001 --no-create-home promptdial

COPY requirements/serve.txt requirements/
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/serve.txt

COPY promptdial promptdial
COPY service service
COPY models/small models/small
COPY LICENSE ./

USER promptdial
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PROMPTDIAL_PORT'] + '/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["python", "-m", "service"]
