FROM debian:13-slim AS build
WORKDIR /source
COPY cmake/install-deps.sh cmake/
RUN sh cmake/install-deps.sh build
COPY . .
RUN cmake --preset release -DBITFLOW_TESTS=OFF -DBITFLOW_WERROR=OFF \
    && cmake --build --preset release --parallel "$(nproc)" \
    && sh packaging/container/make-root.sh build/release /image

# Nothing but what make-root.sh has put together: no shell, no package manager.
FROM scratch
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bitflow" \
    org.opencontainers.image.description="Layer 4 TCP proxy that connects isolated networks" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.base.name="debian:13-slim"
COPY --from=build /image /
ENV PATH=/usr/local/bin
# By number, or Kubernetes cannot tell that it is not root (runAsNonRoot); with the group, or that is root's.
USER 10000:10000
EXPOSE 8080
STOPSIGNAL SIGTERM
# It gives the main thread 5 s to answer.
HEALTHCHECK --interval=30s --timeout=8s --start-period=10s --retries=3 \
    CMD ["bitflow", "health", "--config", "/etc/bitflow/config.yaml"]
ENTRYPOINT ["bitflow"]
CMD ["--config", "/etc/bitflow/config.yaml"]
