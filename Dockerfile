FROM debian:13-slim AS build
WORKDIR /source
COPY cmake/install-deps.sh cmake/
RUN sh cmake/install-deps.sh build
COPY . .
# The example gets its mode here: in somebody's checkout it may be one that the image's user cannot read.
RUN cmake --preset release -DBITFLOW_TESTS=OFF -DBITFLOW_WERROR=OFF \
    && cmake --build --preset release --parallel "$(nproc)" \
    && cmake --install build/release --prefix /usr/local \
    && install -D -m 0644 config.example.yaml /etc/bitflow/config.yaml

FROM debian:13-slim
COPY cmake/install-deps.sh /tmp/
RUN sh /tmp/install-deps.sh run \
    && rm -rf /tmp/install-deps.sh /var/lib/apt/lists/*
RUN groupadd --gid 10000 bitflow \
    && useradd --uid 10000 --gid 10000 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin bitflow
COPY --from=build /usr/local/bin/bitflow /usr/local/bin/
COPY --from=build /etc/bitflow/config.yaml /etc/bitflow/
# By number, or Kubernetes cannot tell that it is not root (runAsNonRoot); with the group, or that is root's.
USER 10000:10000
STOPSIGNAL SIGTERM
ENTRYPOINT ["bitflow"]
CMD ["--config", "/etc/bitflow/config.yaml"]
