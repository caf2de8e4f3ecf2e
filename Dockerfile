FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/forebay /usr/local/bin/forebay
COPY LICENSE NOTICE /usr/share/doc/forebay/
RUN install -d -o nobody /data
USER nobody
VOLUME /data
ENTRYPOINT ["forebay"]
