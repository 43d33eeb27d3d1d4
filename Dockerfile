# Build from the root of the repository: docker build -f operator/Dockerfile .
FROM python:3.13-slim AS build
RUN pip install --no-cache-dir "uv>=0.9,<1"
WORKDIR /src
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/opt/servingplan
COPY pyproject.toml uv.lock README.md LICENSE .python-version ./
# The dependencies in a layer of their own: they change less often than the code.
RUN uv sync --locked --no-dev --no-install-project
COPY operator ./operator
RUN uv sync --locked --no-dev --no-editable

FROM python:3.13-slim
ENV PATH=/opt/servingplan/bin:$PATH PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/servingplan /opt/servingplan
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080 8081
ENTRYPOINT ["servingplan"]
CMD ["run"]
