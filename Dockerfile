FROM debian:13-slim AS build
WORKDIR /source
COPY cmake/install-deps.sh cmake/
RUN cmake/install-deps.sh build
COPY . .
RUN cmake --preset release -DBITFLOW_TESTS=OFF -DBITFLOW_WERROR=OFF \
    && cmake --build --preset release --parallel "$(nproc)" \
    && cmake --install build/release --prefix /usr/local

FROM debian:13-slim
COPY cmake/install-deps.sh /tmp/
RUN /tmp/install-deps.sh run \
    && rm -rf /tmp/install-deps.sh /var/lib/apt/lists/* \
    && useradd --system --uid 10000 --no-create-home --shell /usr/sbin/nologin bitflow
COPY --from=build /usr/local/bin/bitflow /usr/local/bin/
COPY config.example.yaml /etc/bitflow/config.yaml
USER bitflow
ENTRYPOINT ["bitflow"]
CMD ["--config", "/etc/bitflow/config.yaml"]
