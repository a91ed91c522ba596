# The gateway on a distroless base: no shell, no root, nothing to write to but /data.
#
#   docker build -t sealgate .
#   docker run --read-only -p 8443:8443 -v ./gateway.toml:/etc/sealgate/gateway.toml:ro sealgate

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /build
# As in .cargo/config.toml.
ENV AWS_LC_SYS_NO_JITTER_ENTROPY=1
# The dependencies first: this layer is kept until one of them changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs benches/verify.rs benches/replay.rs \
    && cargo build --release --locked \
    && rm -rf src
COPY src src
COPY schemes schemes
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin sealgate

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/sealgate /usr/local/bin/sealgate
WORKDIR /etc/sealgate
USER nonroot
EXPOSE 8443 9464
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s \
    CMD ["/usr/local/bin/sealgate", "health", "--config", "/etc/sealgate/gateway.toml"]
ENTRYPOINT ["/usr/local/bin/sealgate"]
CMD ["run", "--config", "/etc/sealgate/gateway.toml"]
