# Truetape in a container: docker build -t truetape .
# compose.yaml runs it with all that it needs; docs/install.md has the rest.

FROM python:3.13-slim-trixie AS build
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_PROJECT_ENVIRONMENT=/opt/truetape \
    UV_PYTHON=/usr/local/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1
WORKDIR /build
# First what seldom changes: the locked dependencies, as wheels (nothing is compiled, there is no compiler).
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-build --no-install-project
# Then Truetape itself, as a wheel.
COPY README.md LICENSE ./
COPY src src
RUN uv sync --frozen --no-dev --no-editable

FROM python:3.13-slim-trixie
# A fixed number, so that the rights on a volume stay what they are.
RUN useradd --uid 10042 --user-group --home-dir /var/lib/truetape --create-home \
            --shell /usr/sbin/nologin truetape \
 && install -d /etc/truetape
COPY --from=build /opt/truetape /opt/truetape
# HOST lets other machines in, as a container must: without TRUETAPE_API_TOKEN the start is refused.
ENV PATH=/opt/truetape/bin:$PATH \
    HOME=/var/lib/truetape \
    TRUETAPE_HOME=/var/lib/truetape \
    HOST=0.0.0.0
USER 10042:10042
# A truetape.toml mounted here is read.
WORKDIR /etc/truetape
# Embedded servers keep their data here; with ANALYTICS_DATABASE_URL it stays empty.
VOLUME /var/lib/truetape
EXPOSE 42091
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + (os.environ.get('PORT') or '42091') + '/livez', timeout=4)"]
ENTRYPOINT ["truetape"]
CMD ["serve"]
