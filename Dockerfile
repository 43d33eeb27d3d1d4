# The operator's image. `make image` builds it with docker, podman or buildah; without any of them localcluster/image.py makes
# an image that starts the same. Name the base by its digest to pin it too: make image PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
RUN pip install --no-cache-dir "uv>=0.9,<1"
WORKDIR /src
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
COPY pyproject.toml uv.lock README.md LICENSE ./
# The dependencies in a layer of their own, since they change less often than the code: as the lock file names them, by hash.
RUN uv venv /opt/servingplan \
 && uv export --locked --no-dev --no-emit-project --quiet --output-file requirements.txt \
 && uv pip install --python /opt/servingplan --require-hashes --requirement requirements.txt \
 # The client's asynchronous twin, a quarter of the layer, which nothing here imports.
 && rm -r /opt/servingplan/lib/python3*/site-packages/kubernetes/aio
COPY operator ./operator
RUN uv build --wheel --out-dir dist && uv pip install --python /opt/servingplan --no-deps dist/*.whl

FROM ${PYTHON_IMAGE}
ENV HOME=/tmp PATH=/opt/servingplan/bin:$PATH PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/servingplan /opt/servingplan
# Any other user that is not root can run it too, such as the one that OpenShift chooses.
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080 8081
ENTRYPOINT ["servingplan"]
CMD ["run"]
