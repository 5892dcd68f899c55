# syntax=docker/dockerfile:1
# Two images: the default one for the CPU, and `--target gpu` based on CUDA. docs/deployment.md says
# how to run them.

ARG RUST=1.95
ARG DEBIAN=bookworm
# CUDA 13 and cuDNN 9, which the GPU build of ONNX Runtime 1.31 requires.
ARG CUDA=13.0.1-cudnn-runtime-ubuntu24.04

# Takes ONNX Runtime from its wheel and verifies the checksum.
FROM python:3.13-slim-${DEBIAN} AS onnxruntime
WORKDIR /src
COPY scripts/setup-onnxruntime.sh scripts/
RUN scripts/setup-onnxruntime.sh cpu

FROM onnxruntime AS onnxruntime-gpu
RUN scripts/setup-onnxruntime.sh gpu

# Builds the binary. Crates and compiled dependencies stay in the builder's caches, so a change of
# the source compiles only that.
FROM rust:${RUST}-slim-${DEBIAN} AS build
WORKDIR /src
COPY . .
# classifyd_build_info shows it.
ARG COMMIT=unknown
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    CLASSIFYD_COMMIT="$COMMIT" cargo build --release --locked --package classifyd --bin classifyd --features otlp \
    && install -D --strip target/release/classifyd /image/usr/bin/classifyd

# The complete CPU image: no shell, no package manager, only what the server needs.
FROM build AS files
COPY --from=onnxruntime /src/.onnxruntime/libonnxruntime.so.* /image/usr/lib/
COPY --from=onnxruntime /src/.onnxruntime/LICENSE /src/.onnxruntime/ThirdPartyNotices.txt /image/usr/share/doc/onnxruntime/
RUN deploy/container/make-root.sh /image

FROM nvidia/cuda:${CUDA} AS gpu
LABEL org.opencontainers.image.title="classifyd" \
    org.opencontainers.image.description="Serves ONNX classifiers over HTTP, with CUDA" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=onnxruntime-gpu /src/.onnxruntime-gpu/ /usr/lib/onnxruntime/
COPY --from=files /image/usr/bin/classifyd /usr/bin/
COPY deploy/container/classifyd-gpu.toml /etc/classifyd/classifyd.toml
COPY --from=files /image/models/ /models/
# Without this variable, classifyd sets it and re-executes itself; see docs/telemetry.md.
ENV ORT_DISABLE_TELEMETRY=1 \
    CLASSIFYD_CONFIG=/etc/classifyd/classifyd.toml \
    CLASSIFYD_ONNXRUNTIME=/usr/lib/onnxruntime/libonnxruntime.so.1.31.1
USER 65532:65532
EXPOSE 8080
# Loading and warming up a model on a GPU may take minutes.
HEALTHCHECK --interval=5s --timeout=3s --start-period=300s --retries=3 CMD ["/usr/bin/classifyd", "healthcheck"]
ENTRYPOINT ["/usr/bin/classifyd"]
CMD ["serve"]

FROM scratch AS cpu
LABEL org.opencontainers.image.title="classifyd" \
    org.opencontainers.image.description="Serves ONNX classifiers over HTTP" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=files /image/ /
ENV ORT_DISABLE_TELEMETRY=1 \
    CLASSIFYD_CONFIG=/etc/classifyd/classifyd.toml
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["/usr/bin/classifyd", "healthcheck"]
# classifyd handles SIGTERM, also as process 1. It drains for drain_delay plus at most grace, 30 s
# by default, so `docker stop` must wait that long.
ENTRYPOINT ["/usr/bin/classifyd"]
CMD ["serve"]
