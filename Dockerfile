# The gateway on a distroless image: no shell, not root, and only /data is writable.
#
#   docker build -t sealgate .
#   docker run --read-only -p 8443:8443 -v ./gateway.toml:/etc/sealgate/gateway.toml:ro sealgate

FROM docker.io/library/rust:1.95-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /build
# Same as in .cargo/config.toml.
ENV AWS_LC_SYS_NO_JITTER_ENTROPY=1
# Build the dependencies first: this layer is cached until one of them changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches data \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && sed -n '/^\[\[bench\]\]/,/^$/s|^name = "\(.*\)"|benches/\1.rs|p' Cargo.toml | xargs touch \
    && cargo build --release --locked \
    && rm -rf src
COPY src src
COPY schemes schemes
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin sealgate
RUN strip target/release/sealgate

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/sealgate /usr/local/bin/sealgate
COPY --from=build --chown=65532:65532 /build/data /data
VOLUME /data
WORKDIR /etc/sealgate
USER 65532:65532
EXPOSE 8443 9464
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s \
    CMD ["/usr/local/bin/sealgate", "health", "--config", "/etc/sealgate/gateway.toml"]
ENTRYPOINT ["/usr/local/bin/sealgate"]
CMD ["run", "--config", "/etc/sealgate/gateway.toml"]
