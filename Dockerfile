# syntax=docker/dockerfile:1
# CPU:   docker build -t antigen .
# CUDA:  docker build -t antigen:cuda --build-arg FEATURES=cuda \
#          --build-arg BUILD_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#          --build-arg RUNTIME_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
# Run:   docker run -p 127.0.0.1:8080:8080 -v antigen-data:/data antigen
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# deps: the tool chain and every dependency, compiled once and kept until a manifest changes.
FROM ${BUILD_IMAGE} AS deps
ARG FEATURES=""
# There is no GPU and no driver to ask while an image is built: kernels are compiled for this compute capability, and the linker
# finds the driver's library as a stub. Both are without effect on the CPU.
ENV CUDA_COMPUTE_CAP=90 LIBRARY_PATH=/usr/local/cuda/lib64/stubs
# The Rust image has cargo; on a CUDA image the distribution's rustup brings the tool chain that rust-toolchain.toml names.
RUN if ! command -v cargo; then \
      apt-get update \
      && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends build-essential ca-certificates pkg-config rustup \
      && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /src
COPY rust-toolchain.toml Cargo.toml Cargo.lock ./
COPY crates/models/Cargo.toml crates/models/Cargo.toml
COPY crates/engine/Cargo.toml crates/engine/Cargo.toml
COPY crates/experiments/Cargo.toml crates/experiments/Cargo.toml
COPY xtask/Cargo.toml xtask/Cargo.toml
# Empty sources stand in for ours, so that this layer depends on the manifests alone.
RUN mkdir -p src tests/it crates/models/src crates/engine/src crates/experiments/src crates/experiments/tests/it xtask/src \
 && echo 'fn main() {}' | tee src/main.rs tests/it/main.rs crates/experiments/tests/it/main.rs > xtask/src/main.rs \
 && touch src/lib.rs crates/models/src/lib.rs crates/engine/src/lib.rs crates/experiments/src/lib.rs \
 && cargo build --release --locked --features "${FEATURES}" \
 && rm -rf src tests crates/*/src crates/*/tests xtask/src

# build: the service with the engine and the models; the other packages are no part of it.
FROM deps AS build
ARG FEATURES=""
COPY . .
# The integration tests stay outside; cargo still wants the file that the manifest names. Old stand-ins must not look newer.
RUN mkdir -p tests/it && echo 'fn main() {}' > tests/it/main.rs \
 && find src crates -name '*.rs' -exec touch {} + \
 && cargo build --release --locked --features "${FEATURES}" --bin antigen

# runtime: the program and nothing that could build another.
FROM ${RUNTIME_IMAGE} AS runtime
RUN useradd --system --uid 10001 --create-home --home-dir /data antigen
COPY --from=build /src/target/release/antigen /usr/local/bin/antigen
USER antigen
WORKDIR /data
# Inside a container the port is published by whoever starts it; 127.0.0.1 would reach nobody.
ENV ANTIGEN_DATA_DIR=/data ANTIGEN_SERVER__BIND=0.0.0.0:8080
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["antigen"]
CMD ["serve"]
