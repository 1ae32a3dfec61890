# One image for controller, drone and proxy: `docker run jetway controller …`, `drone …`, `proxy …`.
#
#   docker build -t jetway .     builds the executables in here, with Rust's own image
#   make image                   takes executables built on this machine (scripts/image), and needs no registry
#
# Both are filled through the last stage; nothing in it is made for one architecture.

ARG RUST_IMAGE=rust:1.95-slim-bookworm
FROM ${RUST_IMAGE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev
WORKDIR /jetway
COPY . .
RUN scripts/image --stage /out

# --- the image: scripts/image reads from here on
FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Jetway" \
      org.opencontainers.image.description="One call, one URL, one process: an orchestrator of interactive sessions" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ /
# Nobody. Only the drone needs more: root, for the engine's socket.
USER 65532:65532
# SIGTERM stops in order, as Docker sends it. Which role runs here, the check finds out. Not more often: each time, the
# engine spends some 50 ms of CPU on it.
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=5 CMD ["/bin/jetway", "health"]
ENTRYPOINT ["/bin/jetway"]
