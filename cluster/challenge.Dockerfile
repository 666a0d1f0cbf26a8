# A container to hand in to a challenge: cases in /input, masks in /output, and nothing else.
#
#   docker build -f cluster/challenge.Dockerfile -t challenge .
#   docker run --rm --network none --read-only -v CASES:/input:ro -v MASKS:/output challenge
#
# The starter model segments. Another one goes into a folder `bundle` right here (what `ray-brats
# train` leaves as RUN/bundle), and `--build-arg BUNDLE=bundle` takes it. With `--build-arg
# VARIANT=cuda` and `docker run --gpus all` it takes a GPU.
ARG VARIANT=cpu

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md ./
COPY ray_brats ray_brats
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm AS cpu
ENV RAY_BRATS_EXTRA=""

FROM python:3.11-slim-bookworm AS cuda
ENV RAY_BRATS_EXTRA="tensorflow[and-cuda]==2.21.0" \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM ${VARIANT}
ARG BUNDLE=ray_brats/starter
COPY --from=wheel /wheels /wheels
COPY cluster/constraints.txt /wheels/
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt /wheels/*.whl ${RAY_BRATS_EXTRA} && \
    rm -rf /wheels && \
    useradd --create-home --uid 1000 brats
COPY ${BUNDLE} /bundle
USER brats
ENV PYTHONDONTWRITEBYTECODE=1 \
    TF_CPP_MIN_LOG_LEVEL=3 \
    TF_ENABLE_ONEDNN_OPTS=1 \
    TF_FORCE_GPU_ALLOW_GROWTH=true
# `docker run … challenge /input /output --task gli-post` adds options.
ENTRYPOINT ["ray-brats", "score", "--bundle", "/bundle", "--flat"]
CMD ["/input", "/output"]
